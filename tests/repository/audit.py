"""List known advisories of the packages in the locks: ``make audit``.

Each version of a lock is asked of the package index that is configured (``UV_DEFAULT_INDEX`` or
``PIP_INDEX_URL``), by PyPI's JSON API, whose answers hold the advisories of the version. Exits with
0 when there is none, 1 when there are some, and 2 when a package could not be checked.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx

from flows.doors.bento_store import read_pins

ROOT: Final = Path(__file__).parents[2]
LOCKS: Final = (
    "requirements.lock",
    "requirements-docs.lock",
    "requirements-fuzz.lock",
    "requirements-kernels.lock",
)
PYPI: Final = "https://pypi.org/simple"

_THREADS: Final = 8
_TIMEOUT_S: Final = 30.0


class Advisory(NamedTuple):
    """One advisory of one version of a package."""

    package: str
    version: str
    names: tuple[str, ...]
    """Its identifier and the other names that it has."""
    fixed_in: tuple[str, ...]
    summary: str


class Audit(NamedTuple):
    """Advisories, and packages that could not be checked."""

    advisories: list[Advisory]
    unchecked: list[str]
    """Packages about which the index gave no answer, each with the reason."""


def gather_pins(locks: Iterable[Path]) -> list[tuple[str, str]]:
    """Read names and versions of locks, each once."""
    texts = [lock.read_text(encoding="utf-8") for lock in locks]
    return sorted({pin for text in texts for pin in read_pins(text)})


def find_api(environment: dict[str, str]) -> str:
    """Return the address of the JSON API of the index that is configured."""
    index = environment.get("UV_DEFAULT_INDEX") or environment.get("PIP_INDEX_URL") or PYPI
    return f"{index.rstrip('/').removesuffix('/simple')}/pypi"


def hide_login(address: str) -> str:
    """Leave out the user and the password of an address: CI keeps what is printed."""
    scheme, found, rest = address.partition("://")
    place, slash, path = rest.partition("/")
    return f"{scheme}{found}{place.rpartition('@')[2]}{slash}{path}"


def audit(pins: Sequence[tuple[str, str]], *, api: str) -> Audit:
    """Ask the index for the advisories of each version."""
    found = Audit([], [])
    with httpx.Client(timeout=_TIMEOUT_S, follow_redirects=True) as client:

        def ask(pin: tuple[str, str]) -> list[Advisory] | str:
            name, version = pin
            try:
                answer = client.get(f"{api}/{name}/{version}/json")
                answer.raise_for_status()
                return _read_advisories(name, version, answer.json())
            except httpx.HTTPStatusError as error:
                return f"{name} {version}: the index answers {error.response.status_code}"
            except httpx.HTTPError as error:
                return f"{name} {version}: no answer, {type(error).__name__}"
            except (ValueError, KeyError, TypeError, AttributeError):
                return f"{name} {version}: the answer has no advisories; is it PyPI's JSON API?"

        if pins and isinstance(first := ask(pins[0]), str):
            # Offline, or an index without the API: one question tells as much as hundreds.
            return Audit([], [first, *(f"{one} {of}: not asked" for one, of in pins[1:])])
        with ThreadPoolExecutor(_THREADS) as threads:
            for answer in threads.map(ask, pins):
                if isinstance(answer, str):
                    found.unchecked.append(answer)
                else:
                    found.advisories.extend(answer)
    return found


def _read_advisories(name: str, version: str, document: dict[str, Any]) -> list[Advisory]:
    return [
        Advisory(
            package=name,
            version=version,
            names=(one["id"], *one.get("aliases", ())),
            fixed_in=tuple(one.get("fixed_in") or ()),
            summary=(one.get("summary") or one.get("details") or "").strip().split("\n")[0],
        )
        for one in document["vulnerabilities"]
        if not one.get("withdrawn")
    ]


def main(given: Sequence[str] | None = None) -> int:
    """Print what was found and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("locks", nargs="*", type=Path, default=[ROOT / name for name in LOCKS])
    parser.add_argument("--api", default=find_api(dict(os.environ)), help="address of the JSON API")
    parser.add_argument(
        "--accept", action="append", default=[], help="advisory that is known and accepted"
    )
    arguments = parser.parse_args(given)
    pins = gather_pins(arguments.locks)
    found = audit(pins, api=arguments.api)
    open_ones = [one for one in found.advisories if not set(one.names) & set(arguments.accept)]
    for one in open_ones:
        fixed = f"fixed in {', '.join(one.fixed_in)}" if one.fixed_in else "not fixed yet"
        sys.stdout.write(
            f"{one.package} {one.version}: {' '.join(one.names)}, {fixed}: {one.summary}\n"
        )
    for reason in found.unchecked[:5]:
        sys.stderr.write(f"{reason}\n")
    n_unchecked = len(found.unchecked)
    if n_unchecked:
        sys.stderr.write(
            f"{n_unchecked} of {len(pins)} packages could not be checked at "
            f"{hide_login(arguments.api)}; the "
            "audit needs a package index with PyPI's JSON API\n"
        )
    sys.stdout.write(
        f"{len(open_ones)} advisories in {len(pins) - n_unchecked} of {len(pins)} packages\n"
    )
    return 1 if open_ones else 2 if n_unchecked else 0


if __name__ == "__main__":
    sys.exit(main())
