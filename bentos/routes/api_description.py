"""The OpenAPI description: what FastAPI sees of the routes, and what they read themselves."""

from __future__ import annotations

from enum import StrEnum
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from bentos.routes.guard import GUARDED
from bentos.wire import api_examples as examples
from bentos.wire.api_examples import ExampleFormat
from bentos.wire.inputs import FLOAT32, JSON, NPY
from bentos.wire.problems import MEDIA_TYPE
from bentos.wire.schemas import FeedbackRequest, PredictionParameters, PredictionRequest, Problem
from ecg_lib.records.simulation.simulator import StripKind

REF: Final = "#/components/schemas/{model}"

_KIND: Final = StripKind.ISOLATED_PVC
_ANSWERS: Final = {
    ("/api/v1/predictions/", "post", "201"): examples.PREDICTION,
    ("/api/v1/predictions/{prediction_id}", "get", "200"): examples.PREDICTION,
    ("/api/v1/feedback/", "post", "201"): examples.FEEDBACK,
    ("/api/v1/predictions/{prediction_id}/feedback", "get", "200"): examples.MARKS,
    ("/api/v1/review-queue/", "get", "200"): examples.REVIEW_QUEUE,
    ("/api/v1/recordings/{job_id}/feedback", "get", "200"): examples.MARKS,
    ("/health", "get", "200"): examples.HEALTH,
}
_KEY: Final = {
    "type": "apiKey",
    "in": "header",
    "name": "X-API-Key",
    "description": "Asked for when the service was started with a file of keys.",
}


def document_problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Document the problems that a route may answer with, by their status."""
    schema = {"$ref": REF.format(model="Problem")}
    problem = {"content": {MEDIA_TYPE: {"schema": schema}}}
    documented: dict[int | str, dict[str, Any]] = {
        status: {"description": HTTPStatus(status).phrase, **problem} for status in statuses
    }
    return {**documented, "default": {"description": "Another problem", **problem}}


def document_query(query: type[BaseModel], *, note: str = "") -> list[dict[str, Any]]:
    """Document the parameters of an address that a route reads itself.

    `note` is added to the description of each.
    """
    schema = query.model_json_schema()
    parameters = []
    for name, field in schema["properties"].items():
        described = {**_resolve(field, schema.get("$defs", {})), **field}
        text = f"{field.get('description', '')} {note}".strip()
        parameters.append(
            {
                "name": name,
                "in": "query",
                "required": False,
                **({"description": text} if text else {}),
                "schema": {
                    key: value
                    for key, value in described.items()
                    if key not in {"$ref", "description"}
                },
            }
        )
    return parameters


def _resolve(field: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Give the definition that a field refers to; nothing when it refers to none."""
    resolved: dict[str, Any] = definitions.get(field.get("$ref", "").rpartition("/")[2], {})
    return resolved


def describe_api(app: FastAPI) -> dict[str, Any]:
    """Describe the API; the first call makes it, later ones give it again."""
    if app.openapi_schema is None:
        described = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            routes=app.routes,
            servers=app.servers,
        )
        bodies = (PredictionRequest, FeedbackRequest)
        _, schemas = models_json_schema(
            [*((body, "validation") for body in bodies), (Problem, "serialization")],
            ref_template=REF,
        )
        described["components"]["schemas"].update(schemas["$defs"])
        described["components"]["securitySchemes"] = {"api_key": _KEY}
        _add_bodies(described["paths"])
        _add_keys(described["paths"])
        _add_answers(described["paths"])
        app.openapi_schema = described
    return app.openapi_schema


def _add_bodies(paths: dict[str, Any]) -> None:
    """Document the bodies that routes read themselves, which FastAPI does not see."""
    predict = paths["/api/v1/predictions/"]["post"]
    predict["requestBody"] = {
        "required": True,
        "content": {
            JSON: _json_body(PredictionRequest, examples.make_request(_KIND)),
            FLOAT32: _binary_body(
                "Samples as float32, little-endian, without a header.", ExampleFormat.FLOAT32
            ),
            NPY: _binary_body(
                "A file of NPY format 1.0 or 2.0 with one dimension of float32 or float64.",
                ExampleFormat.NPY,
            ),
        },
    }
    predict["parameters"] = document_query(
        PredictionParameters, note="For a binary body; JSON holds it itself."
    )
    example = paths["/api/v1/examples/{kind}"]["get"]
    example["parameters"] = [
        _choice("kind", StripKind, where="path"),
        _choice("format", ExampleFormat, where="query"),
    ]
    binary = {"schema": {"type": "string", "format": "binary"}}
    example["responses"]["200"]["content"] |= {FLOAT32: binary, NPY: binary}
    paths["/api/v1/feedback/"]["post"]["requestBody"] = {
        "required": True,
        "content": {JSON: _json_body(FeedbackRequest, examples.FEEDBACK_REQUEST)},
    }


def _add_keys(paths: dict[str, Any]) -> None:
    """Document that a key may be asked for, wherever the guard asks for one."""
    for path, operations in paths.items():
        if path.startswith(GUARDED):
            for operation in operations.values():
                operation["security"] = [{}, {"api_key": []}]


def _choice(name: str, values: type[StrEnum], *, where: str) -> dict[str, Any]:
    schema = {"type": "string", "enum": [value.value for value in values]}
    return {"name": name, "in": where, "required": where == "path", "schema": schema}


def _json_body(
    model: type[PredictionRequest | FeedbackRequest], example: dict[str, Any]
) -> dict[str, Any]:
    return {"schema": {"$ref": REF.format(model=model.__name__)}, "example": example}


def _binary_body(text: str, form: ExampleFormat) -> dict[str, Any]:
    example = {
        "summary": f"A strip at {examples.FS_HZ:g} Hz, to be sent with "
        f"?sampling_rate={examples.FS_HZ:g}",
        "externalValue": f"/api/v1/examples/{_KIND}?format={form}",
    }
    return {
        "schema": {"type": "string", "format": "binary", "description": text},
        "examples": {"strip": example},
    }


def _add_answers(paths: dict[str, Any]) -> None:
    for (path, method, status), example in _ANSWERS.items():
        paths[path][method]["responses"][status]["content"][JSON]["example"] = example
    for operations in paths.values():
        for operation in operations.values():
            problem = operation["responses"].get("default")
            if problem is not None:
                problem["content"][MEDIA_TYPE]["example"] = examples.PROBLEM
