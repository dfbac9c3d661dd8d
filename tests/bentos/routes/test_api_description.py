from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from bentos.routes.guard import GUARDED

PATHS = {
    "/api/v1/predictions/",
    "/api/v1/predictions/{prediction_id}",
    "/api/v1/predictions/{prediction_id}/feedback",
    "/api/v1/feedback/",
    "/api/v1/feedback/{feedback_id}",
    "/api/v1/model/",
    "/api/v1/ops/",
    "/api/v1/ops/rollout/",
    "/api/v1/ops/rollout/signals/{prediction_id}",
    "/api/v1/examples/{kind}",
    "/api/v1/recordings/",
    "/api/v1/signals/",
    "/api/v1/review-queue/",
    "/api/v1/recordings/{job_id}",
    "/api/v1/recordings/{job_id}/beats",
    "/api/v1/recordings/{job_id}/feedback",
    "/api/v1/recordings/{job_id}/result",
    "/api/v1/recordings/{job_id}/signal",
    "/health",
    "/metrics",
}


@pytest.fixture(scope="module")
def described(service: Any) -> dict[str, Any]:  # noqa: ANN401  the class of a conftest
    found: dict[str, Any] = service.http.get("/openapi.json").json()
    return found


def contents(described: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Where, media type and description of every body, sent or answered."""
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            bodies = {"request": operation.get("requestBody", {}), **operation["responses"]}
            for name, body in bodies.items():
                for media_type, content in body.get("content", {}).items():
                    yield f"{method} {path} {name}", media_type, content


def test_every_path_is_described(described: dict[str, Any]) -> None:
    assert set(described["paths"]) == PATHS


def test_a_key_is_described_wherever_one_may_be_asked_for(described: dict[str, Any]) -> None:
    for path, operations in described["paths"].items():
        for operation in operations.values():
            expected = [{}, {"api_key": []}] if path.startswith(GUARDED) else None
            assert operation.get("security") == expected, path


def test_every_reference_leads_somewhere(described: dict[str, Any]) -> None:
    references = set(re.findall(r"#/components/schemas/(\w+)", str(described)))
    assert references <= set(described["components"]["schemas"])
    assert "HTTPValidationError" not in references


def test_every_example_validates_against_its_schema(described: dict[str, Any]) -> None:
    from jsonschema import Draft202012Validator  # noqa: PLC0415  it compiles grammars for seconds

    found = []
    for where, media_type, content in contents(described):
        if "example" in content:
            schema = {**content["schema"], "components": described["components"]}
            Draft202012Validator(schema).validate(content["example"])
            found.append((where, media_type))
    assert ("post /api/v1/predictions/ request", "application/json") in found
    assert ("post /api/v1/predictions/ 201", "application/json") in found
    assert ("post /api/v1/predictions/ default", "application/problem+json") in found
    assert ("get /health 200", "application/json") in found


def test_every_field_of_an_answer_is_in_its_example(described: dict[str, Any]) -> None:
    for where, _, content in contents(described):
        name = content["schema"].get("$ref", "").rpartition("/")[2]
        if "example" in content and not where.endswith("request"):
            schema = described["components"]["schemas"][name]
            assert set(content["example"]) == set(schema["properties"]), where


def test_the_examples_that_lie_elsewhere_are_accepted(
    described: dict[str, Any], http: httpx.Client
) -> None:
    body = described["paths"]["/api/v1/predictions/"]["post"]["requestBody"]
    elsewhere = {
        media_type: example["externalValue"]
        for media_type, content in body["content"].items()
        for example in content.get("examples", {}).values()
    }
    assert set(elsewhere) == {"application/octet-stream", "application/x-npy"}
    for media_type, address in elsewhere.items():
        example = http.get(address)
        assert example.headers["content-type"] == media_type
        answered = http.post(
            "/api/v1/predictions/?sampling_rate=100",
            content=example.content,
            headers={"Content-Type": media_type},
        )
        assert answered.status_code == 201, answered.text


def test_every_media_type_of_an_example_is_described(
    described: dict[str, Any], http: httpx.Client
) -> None:
    operation = described["paths"]["/api/v1/examples/{kind}"]["get"]
    (formats,) = (one["schema"]["enum"] for one in operation["parameters"] if one["in"] == "query")
    given = {
        http.get(f"/api/v1/examples/normal?format={one}").headers["content-type"] for one in formats
    }
    assert given == set(operation["responses"]["200"]["content"])


def test_the_parameters_of_recordings_are_described_with_their_limits(
    described: dict[str, Any],
) -> None:
    paths = {
        one: {
            parameter["name"]: parameter["schema"]
            for parameter in described["paths"][f"/api/v1/recordings/{{job_id}}/{one}"]["get"][
                "parameters"
            ]
            if parameter["in"] == "query"
        }
        for one in ("result", "signal", "beats")
    }
    assert paths["result"]["format"]["enum"] == ["json", "csv", "atr", "fhir", "html", "pdf"]
    assert paths["result"]["format"]["default"] == "json"
    assert set(paths["signal"]) == {"start_s", "duration_s", "max_points"}
    assert paths["signal"]["max_points"]["maximum"] == 20_000
    assert paths["beats"]["duration_s"]["exclusiveMinimum"] == 0
    job = described["components"]["schemas"]["JobStatus"]
    assert job["enum"] == ["queued", "running", "done", "failed", "cancelled"]


def test_the_parameters_of_binary_bodies_are_described_with_their_limits(
    described: dict[str, Any],
) -> None:
    parameters = described["paths"]["/api/v1/predictions/"]["post"]["parameters"]
    schemas = {parameter["name"]: parameter["schema"] for parameter in parameters}
    assert set(schemas) == {
        "sampling_rate", "derivation", "patient_id", "apply_ruleguard", "device", "site",
    }  # fmt: skip
    assert (schemas["sampling_rate"]["minimum"], schemas["sampling_rate"]["maximum"]) == (100, 1000)
    assert {parameter["in"] for parameter in parameters} == {"query"}
