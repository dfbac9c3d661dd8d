"""The door to the compiled kernels: loads the library of this machine and checks what it is given.

`make kernels` builds the sources in ``c/`` into one library for each system and processor. The
libraries are committed, as the weights of networks are, so installing and packing need no compiler
(``docs/decisions/0007-compiled-signal-path.md``). There is no fallback: without its library the
signal path does not run.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecg_lib.errors import KernelError

DIRECTORY: Final = Path(__file__).parent

LIBRARIES: Final = {
    ("linux", "x86_64"): "linux_x86_64.so",
    ("linux", "aarch64"): "linux_aarch64.so",
    ("darwin", "arm64"): "macos_arm64.dylib",
}
"""Name of the library for each system and processor."""

_DTYPES: Final[dict[str, np.dtype[np.generic]]] = {
    "D": np.dtype(np.float64),
    "F": np.dtype(np.float32),
    "f": np.dtype(np.float32),
    "I": np.dtype(np.int64),
    "B": np.dtype(np.bool_),
}
_NUMBERS: Final = {"i": ctypes.c_int64, "d": ctypes.c_double}

KERNELS: Final = {
    "accept_by_rules": "IDDiDB",
    "average_slope": "DiiDD",
    "band_pass": "DiiiDDID",
    "cut_beats": "DiIiiiiiFFF",
    "describe": "FiiFFFDDFDDDdDiiFFB",
    "filter_rank": "DiiiD",
    "find_extrema": "DiIiiidI",
    "find_flutter": "DiiiDB",
    "find_lines": "DiiiiiidID",
    "find_maxima": "DiiI",
    "find_quiet": "DiddI",
    "find_spikes": "DIiBDB",
    "likeness_of_beats": "DiIiiiD",
    "look_again": "IDDiDFBFiF",
    "max_around": "DiIiiiiD",
    "max_between": "DIiiD",
    "measure_candidates": "IDDiDDDiDDBDFiF",
    "measure_heights": "DDDiIiiiidDDDD",
    "measure_qrs_hz": "fiiiiD",
    "measure_widths": "FiiidD",
    "median_of_bins": "DiiiD",
    "median_of_columns": "fiiiiD",
    "resample": "DiDiiiDi",
    "robust_scale": "DiD",
    "span_around": "DiIiiiD",
    "survey": "FFiiDDDdDFDDF",
}
"""Parameters of each kernel: arrays of float64 (D), float32 (F), int64 (I) or bool (B), whole
numbers (i) and floats (d). An array of float32 with steps (f) need not be contiguous: the kernel
gets its first value, and the steps of rows and columns as numbers."""


def run_kernel(name: str, *arguments: NDArray[np.generic] | float) -> int:
    """Run a kernel, which writes its results into the arrays that it is given.

    The global interpreter lock is released meanwhile.

    Parameters
    ----------
    name : str
        One of :data:`KERNELS`.
    arguments : ndarray or number
        Arrays must be contiguous, unless the kernel is told the steps of their rows.

    Returns
    -------
    int
        Its count or index; 0 for most.

    Raises
    ------
    KernelError
        If there is no library for this machine.
    MemoryError
        If the kernel could not allocate memory.

    """
    function, parameters = _functions()[name]
    passed: list[ctypes.Array[ctypes.c_char] | float] = []
    for argument, (dtype, is_whole) in zip(arguments, parameters, strict=True):
        if dtype is None:
            passed.append(argument)  # type: ignore[arg-type]  # ctypes rejects an array here
        elif type(argument) is np.ndarray and argument.dtype is dtype and argument.flags.carray:
            # Most arrays, without a call for each.
            passed.append(_address_of(argument))  # type: ignore[arg-type]  # an array is a buffer
        else:
            passed.append(_address(argument, dtype, is_whole))
    result: int = function(*passed)
    if result < 0:
        msg = f"the kernel {name} could not allocate memory"
        raise MemoryError(msg)
    return result


def _address(
    array: NDArray[np.generic] | float,
    dtype: np.dtype[np.generic],
    is_whole: bool,  # noqa: FBT001  called a hundred times for each strip
) -> ctypes.Array[ctypes.c_char] | int:
    if not isinstance(array, np.ndarray) or array.dtype != dtype:
        msg = f"a kernel must be given an array of {dtype}, got {getattr(array, 'dtype', array)}"
        raise TypeError(msg)
    if array.flags.c_contiguous:
        if array.flags.writeable:  # in a quarter of the time of `array.ctypes`
            return _address_of(array)  # type: ignore[arg-type]  # an array is a buffer
        return array.ctypes.data
    if is_whole:
        msg = f"a kernel must be given an array without gaps, got strides of {array.strides}"
        raise ValueError(msg)
    return array.ctypes.data


_Memory: Final = ctypes.c_char * 0
"""Type of a buffer whose address alone is of interest."""

_address_of: Final = _Memory.from_buffer
"""Of an array that may be written to."""


class _Kernel(NamedTuple):
    function: Callable[..., int]
    parameters: tuple[tuple[np.dtype[np.generic] | None, bool], ...]
    """The dtype of each, None for a number, and whether it must be contiguous."""


@lru_cache(maxsize=1)
def _functions() -> dict[str, _Kernel]:
    """Load the library, once."""
    library = _load(find_library())
    functions: dict[str, _Kernel] = {}
    for name, parameters in KERNELS.items():
        function = getattr(library, f"ecg_{name}")
        function.restype = ctypes.c_int64
        function.argtypes = [_NUMBERS.get(letter, ctypes.c_void_p) for letter in parameters]
        kinds = tuple((_DTYPES.get(letter), letter.isupper()) for letter in parameters)
        functions[name] = _Kernel(function, kinds)
    return functions


def _load(path: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        msg = f"{path.name} must be a library of this machine, it cannot be loaded: {error}"
        raise KernelError(msg) from error


def find_library(system: str = sys.platform, processor: str | None = None) -> Path:
    """Name the library of a machine.

    Raises
    ------
    KernelError
        If there is none.

    """
    processor = processor or platform.machine()
    name = LIBRARIES.get((system, processor))
    if name is None:
        known = ", ".join(" ".join(machine) for machine in LIBRARIES)
        msg = (
            f"the signal path must have kernels for this machine, {system} {processor}; it has "
            f"them for {known}; add the machine to LIBRARIES and run `make kernels`"
        )
        raise KernelError(msg)
    path = DIRECTORY / name
    if not path.is_file():
        msg = f"{name} must lie in {DIRECTORY.name}, it does not; run `make kernels`"
        raise KernelError(msg)
    return path
