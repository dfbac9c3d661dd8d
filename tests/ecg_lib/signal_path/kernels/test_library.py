"""The libraries are those of the sources, and what is wrong with one is said."""

from __future__ import annotations

import ctypes
import platform
import sys
from pathlib import Path

import numpy as np
import pytest

from ecg_lib.errors import KernelError
from ecg_lib.signal_path.kernels import library
from ecg_lib.signal_path.kernels.library import LIBRARIES, find_library, run_kernel
from tests.repository.build_kernels import COMPILER, KERNELS, SOURCES, TARGETS, build, hash_sources


def test_there_is_a_library_for_each_machine_that_is_named() -> None:
    assert set(LIBRARIES.values()) == set(TARGETS)
    assert {path.name for path in KERNELS.iterdir() if path.suffix in {".so", ".dylib"}} == set(
        TARGETS
    )


@pytest.mark.parametrize("name", TARGETS)
def test_each_library_was_built_from_the_sources_that_are_here(name: str) -> None:
    assert hash_sources().encode() in (KERNELS / name).read_bytes(), "run `make kernels`"


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_the_compiler_gives_the_committed_bytes_again(name: str, tmp_path: Path) -> None:
    if not COMPILER.exists():
        pytest.skip("`make kernels` installs the compiler, which takes 400 MB")
    assert build(name, tmp_path) == (KERNELS / name).read_bytes()


def test_a_change_of_a_source_changes_the_hash(tmp_path: Path) -> None:
    for path in [*SOURCES.glob("*.c"), *SOURCES.glob("*.h")]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert hash_sources(tmp_path) == hash_sources()
    (tmp_path / "order.c").write_bytes((SOURCES / "order.c").read_bytes() + b"\n")
    assert hash_sources(tmp_path) != hash_sources()


def test_every_kernel_that_is_exported_is_declared() -> None:
    exported = {
        line.split("ecg_")[1].split("(")[0]
        for path in SOURCES.glob("*.c")
        for line in path.read_text().splitlines()
        if line.startswith("KERNEL i64 ecg_")
    }
    assert exported == set(library.KERNELS)


def test_the_library_of_this_machine_says_what_it_was_built_from() -> None:
    loaded = ctypes.CDLL(str(find_library()))
    stated = ctypes.c_char * 64
    assert stated.in_dll(loaded, "ecg_sources").value.decode() == hash_sources()


def test_a_machine_without_a_library_is_named_with_the_way_out() -> None:
    with pytest.raises(KernelError, match=r"sunos5 sparc.*linux x86_64.*make kernels"):
        find_library("sunos5", "sparc")


def test_a_library_that_is_missing_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "DIRECTORY", tmp_path)
    with pytest.raises(KernelError, match=r"must lie in .* run `make kernels`"):
        find_library()


def test_a_file_that_is_not_a_library_is_refused(tmp_path: Path) -> None:
    path = tmp_path / LIBRARIES[sys.platform, platform.machine()]
    path.write_bytes(b"not a library")
    with pytest.raises(KernelError, match="cannot be loaded"):
        library._load(path)


def test_another_number_of_arguments_is_refused() -> None:
    values, scale = np.zeros(3), np.empty(2)
    for wrong in ((values, 3), (values, 3, scale, 1)):
        with pytest.raises(TypeError, match=f"must be given 3 arguments, got {len(wrong)}"):
            run_kernel("robust_scale", *wrong)


def test_an_array_of_another_kind_or_with_gaps_is_refused() -> None:
    values, filtered = np.zeros(10), np.zeros(10)
    with pytest.raises(TypeError, match="array of float64, got float32"):
        run_kernel("filter_rank", values.astype(np.float32), 10, 3, 1, filtered)
    with pytest.raises(TypeError, match="got 1"):
        run_kernel("filter_rank", 1, 10, 3, 1, filtered)
    with pytest.raises(ValueError, match="without gaps"):
        run_kernel("filter_rank", np.zeros(20)[::2], 10, 3, 1, filtered)
