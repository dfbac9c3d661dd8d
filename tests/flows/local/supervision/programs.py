"""Children of a supervisor: small Python programs."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

import psutil

from flows.local.supervision.supervisor import Program

SLEEPER = "import time; time.sleep(300)"


def python_command(program: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", program, *arguments]


def make_program(
    name: str, code: str, *arguments: str, ends_with_children: bool = False
) -> Program:
    return Program(
        name=name,
        command=python_command(code, *arguments),
        environment=os.environ,
        ends_with_children=ends_with_children,
    )


def wait_for(condition: Callable[[], bool], *, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not happen"
        time.sleep(0.05)


def process_runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
