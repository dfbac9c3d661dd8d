"""Two sweeps of the same parameters at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from flows.training import sweep

HOLD = """
import sys
from pathlib import Path
from flows.training import sweep
assert sweep._hold(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_sweep_of_a_live_process_is_left_alone_and_of_a_killed_one_is_free(
    tmp_path: Path,
) -> None:
    directory = tmp_path / "key-1"
    directory.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        assert not sweep._hold(directory)
        assert sweep._take_number(tmp_path, "key", after=0) == 2
        sweep._let_go(tmp_path / "key-2")
        other.kill()
        other.wait()
        assert sweep._hold(directory)
        sweep._let_go(directory)
