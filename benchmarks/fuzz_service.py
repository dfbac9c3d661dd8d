"""Fuzz the service: every endpoint, every decoder, every reader of files.

1. What :mod:`fuzz_inputs` draws, over HTTP, with ``/health`` after each case.
2. schemathesis, from the service's own OpenAPI; how many cases it sent, the service's metrics say.
3. hypothesis, on the decoders of bodies.
4. atheris, led by coverage, on the readers of files and forms.

The service runs in processes of its own, with a release of this checkout (``--bundle`` or the
released one, else the one that ships). Parts 2 and 4 need the group ``fuzz``. Ends
with 1 when anything was found or a part sent fewer cases than it should, and writes counts and
findings to ``benchmarks/results/fuzz.json``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
from bench_service import RESULTS, describe_run, home_of_checkout
from clients import Server, make_post, make_strips
from fuzz_decoders import fuzz_decoders
from fuzz_http import ANSWER_S, fuzz_http
from fuzz_readers import fuzz_by_coverage
from prometheus_client.parser import text_string_to_metric_families

WANTED: Final = 110_000
"""A tenth more than the 100,000 that are promised: schemathesis sends fewer than it is asked to."""
SHARES: Final = {"http": 0.08, "schema": 0.04, "decoders": 0.08, "readers": 0.8}
"""Parts of the cases; a request costs a hundred times what a file costs."""
ENOUGH: Final = 0.5
"""A part that sent a smaller share of its cases did not run; schemathesis counts in its own way."""
FEWEST: Final = 100

_CHECKS: Final = "not_a_server_error,status_code_conformance,content_type_conformance"
_OWN_ROUTE: Final = "/metrics"
"""The route that this program itself requests."""


def main() -> int:
    """Fuzz; 0 when nothing was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, help="directory of a bundle")
    parser.add_argument("--cases", type=_read_cases, default=WANTED, help="at least 100")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--parts", type=read_parts, default=tuple(SHARES), help=f"some of {','.join(SHARES)}"
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "fuzz.json")
    arguments = parser.parse_args()
    seed = arguments.seed
    counts = {name: round(share * arguments.cases) for name, share in SHARES.items()}
    wanted = arguments.parts
    parts: dict[str, Any] = {}
    if {"http", "schema"} & set(wanted):
        with _serve(arguments.bundle) as server:
            if "http" in wanted:
                parts["http"] = _timed(
                    lambda: fuzz_http(server.port, cases=counts["http"], seed=seed).describe()
                )
            if "schema" in wanted:
                parts["schema"] = _timed(
                    lambda: _fuzz_schema(server.port, cases=counts["schema"], seed=seed)
                )
    if "decoders" in wanted:
        parts["decoders"] = _timed(lambda: fuzz_decoders(cases=counts["decoders"], seed=seed))
    if "readers" in wanted:
        parts["readers"] = _timed(lambda: fuzz_by_coverage(cases=counts["readers"], seed=seed))
    for name, part in parts.items():
        _say(f"{name}: {part['cases']} cases in {part['seconds']} s, {part['n_failures']} findings")
    report = _write(arguments.out, parts)
    _say(f"in all {report['cases']} cases, {report['n_failures']} findings: {arguments.out}")
    too_few = [name for name, part in parts.items() if part["cases"] < ENOUGH * counts[name]]
    if too_few:
        _say(f"too few cases for a result: {', '.join(too_few)}")
    return int(bool(too_few) or any(part["n_failures"] for part in parts.values()))


def read_parts(text: str) -> tuple[str, ...]:
    """Read the names of parts, with commas.

    Raises
    ------
    argparse.ArgumentTypeError
        If one is none.

    """
    parts = tuple(text.split(","))
    unknown = [part for part in parts if part not in SHARES]
    if unknown:
        msg = f"parts must be of {', '.join(SHARES)}, got {', '.join(map(repr, unknown))}"
        raise argparse.ArgumentTypeError(msg)
    return parts


def _read_cases(text: str) -> int:
    cases = int(text)
    if cases < FEWEST:
        msg = f"cases must be at least {FEWEST}, got {cases}"
        raise argparse.ArgumentTypeError(msg)
    return cases


def _write(path: Path, parts: dict[str, Any]) -> dict[str, Any]:
    """Write the parts into the file; those of earlier runs stay in it, with their own commit."""
    kept = json.loads(path.read_text())["parts"] if path.exists() else {}
    together = {name: (kept | parts)[name] for name in SHARES if name in kept | parts}
    report = {
        "cases": sum(part["cases"] for part in together.values()),
        "n_failures": sum(part["n_failures"] for part in together.values()),
        "parts": together,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
    return report


def _timed(fuzz: Any) -> dict[str, Any]:  # noqa: ANN401  a function that gives a report
    about, started_s = describe_run(), time.perf_counter()
    report: dict[str, Any] = fuzz()
    return {"about": about, "seconds": round(time.perf_counter() - started_s, 1), **report}


@contextlib.contextmanager
def _serve(bundle: Path | None) -> Iterator[Server]:
    home, source = home_of_checkout(bundle)
    environment = {
        "ECG_HOME": str(home),
        "BENTOML_HOME": str(home / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
        "ECG_SERVICE_WORKERS": "1",
        "PYTHONPATH": str(source),
        # Recordings that are taken are removed again, in their own time.
        "ECG_RECORDINGS_WAITING": "1000",
    }
    log = home / "fuzz.log"
    with Server([sys.executable, "-m", "bentos.host"], environment, log=log) as server:
        server.wait_for_answer(make_post(next(make_strips(1))[0]))
        yield server
        if server.process.poll() is not None:
            code = server.process.returncode
            msg = f"the service must still run after the fuzzing, it ended with {code}"
            raise RuntimeError(msg)


def _fuzz_schema(port: int, *, cases: int, seed: int) -> dict[str, Any]:
    """Run schemathesis on every operation of our OpenAPI."""
    url = f"http://127.0.0.1:{port}"
    paths = httpx.get(f"{url}/openapi.json", timeout=60, trust_env=False).json()["paths"]
    n_operations = sum(map(len, paths.values()))
    before = _count_requests(url)
    with tempfile.TemporaryDirectory() as temporary:
        command = [str(Path(sys.executable).with_name("schemathesis")), "run"]
        command += [f"{url}/openapi.json", "--phases", "examples,coverage,fuzzing"]
        command += ["--checks", _CHECKS, "--seed", str(seed), "--no-color"]
        command += ["--request-timeout", f"{ANSWER_S:g}"]
        command += ["--max-examples", str(max(1, cases // n_operations)), "--continue-on-failure"]
        done = subprocess.run(
            command,
            cwd=temporary,
            check=False,
            capture_output=True,
            text=True,
            env={**os.environ, "NO_COLOR": "1"},
        )
    counted = _count_requests(url) - before
    failures = [] if done.returncode == 0 else [{"output": done.stdout[-6000:] + done.stderr}]
    return {"cases": counted, "n_failures": len(failures), "failures": failures}


def _count_requests(url: str) -> int:
    return count_requests(httpx.get(f"{url}/metrics", timeout=60, trust_env=False).text)


def count_requests(text: str) -> int:
    """Count the requests in the metrics, except those for the metrics."""
    return round(
        sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "ecg_requests_total" and sample.labels["route"] != _OWN_ROUTE
        )
    )


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
