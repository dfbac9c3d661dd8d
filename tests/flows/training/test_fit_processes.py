"""The processes of fits: they end with the flow that opened them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil

_PARENT = """
import os, sys, time
from flows.training.fitting import fit_processes

def fit() -> None:
    print(os.getpid(), flush=True)
    time.sleep(600)

if __name__ == "__main__":
    with fit_processes() as pool:
        pool.submit(fit).result()
"""


def test_a_fit_ends_when_its_flow_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "flow.py"
    script.write_text(_PARENT)
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        fit = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        fit.wait(timeout=30)  # raises when it is still there


def test_a_flow_that_trains_leaves_tensorflow_to_its_fits() -> None:
    """It takes seconds and half a gigabyte, and each fit runs in a process of its own."""
    flows = ("train_sweep", "workers.search", "workers.search_space", "workers.work_on_sweep")
    code = "; ".join(f"import flows.training.{name}" for name in flows)
    code += "; import sys; print({'keras', 'tensorflow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
