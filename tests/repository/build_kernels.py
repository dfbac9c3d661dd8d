"""Build the libraries of the signal path from their C sources: ``make kernels``.

The compiler is that of the wheel ``ziglang``, in an environment of its own: it needs no other
compiler, and builds for each system and processor on any of them. The same compiler gives the same
bytes, so that ``--check`` can say whether the committed libraries are those of the sources.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
KERNELS: Final = ROOT / "ecg_lib" / "signal_path" / "kernels"
SOURCES: Final = KERNELS / "c"
COMPILER: Final = ROOT / ".venv-kernels" / "bin" / "python"

TARGETS: Final = {
    "linux_x86_64.so": "x86_64-linux-gnu.2.17",
    "linux_aarch64.so": "aarch64-linux-gnu.2.17",
    "macos_arm64.dylib": "aarch64-macos",
}
"""Each for the least processor of its kind, and for a C library of 2014."""

FLAGS: Final = (
    "-std=gnu11", "-O3", "-g0", "-s", "-shared", "-fPIC", "-fvisibility=hidden",
    # Rounding is that of the sources on every processor.
    "-ffp-contract=off", "-fno-math-errno",
    "-Wall", "-Wextra", "-Werror",
)  # fmt: skip


def hash_sources(directory: Path = SOURCES) -> str:
    """Hash the C sources and how they are compiled."""
    digest = hashlib.sha256(repr((TARGETS, FLAGS)).encode())
    for path in sorted([*directory.glob("*.c"), *directory.glob("*.h")]):
        digest.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def build(name: str, to: Path) -> bytes:
    """Build one library in a directory, and return its bytes."""
    define = f'-DECG_SOURCES="{hash_sources()}"'
    sources = sorted(path.name for path in SOURCES.glob("*.c"))
    install_name = ["-Wl,-install_name," + name] if name.endswith(".dylib") else []
    command = [
        *(COMPILER, "-m", "ziglang", "cc", "-target", TARGETS[name]),
        *(*FLAGS, define, *install_name, "-o", to / name, *sources, "-lm"),
    ]
    subprocess.run([str(part) for part in command], cwd=SOURCES, check=True)
    return (to / name).read_bytes()


def main() -> int:
    """Build all libraries; with ``--check`` compare them with those that are there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    arguments = parser.parse_args()
    different = []
    with tempfile.TemporaryDirectory() as draft:
        for name in TARGETS:
            library, committed = build(name, Path(draft)), KERNELS / name
            if not arguments.check:
                committed.write_bytes(library)
                print(f"{name}: {len(library):,} bytes")
            elif not committed.is_file() or committed.read_bytes() != library:
                different.append(name)
    if different:
        print(f"{', '.join(different)} must be built from the sources; run `make kernels`")
    return bool(different)


if __name__ == "__main__":
    sys.exit(main())
