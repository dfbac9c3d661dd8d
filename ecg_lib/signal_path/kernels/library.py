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
from typing import Any, Final, NamedTuple

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
    "U": np.dtype(np.uint8),
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
    "read_numbers": "UiiDiI",
    "resample": "DiDiiiDi",
    "robust_scale": "DiD",
    "span_around": "DiIiiiD",
    "survey": "FFiiDDDdDFDDF",
}
"""Parameters of each kernel: arrays of float64 (D), float32 (F), int64 (I), bool (B) or uint8 (U),
whole numbers (i) and floats (d). An array of float32 with steps (f) need not be contiguous: the
kernel gets its first value, and the steps of rows and columns as numbers."""


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
    function, addresses = _functions()[name]
    passed = [
        argument if find_address is None else find_address(argument)
        for argument, find_address in zip(arguments, addresses, strict=True)
    ]
    result: int = function(*passed)
    if result < 0:
        msg = f"the kernel {name} could not allocate memory"
        raise MemoryError(msg)
    return result


_Address = Callable[[Any], ctypes.Array[ctypes.c_char] | int]
_Memory: Final = ctypes.c_char * 0
"""Type of a buffer whose address alone is of interest."""

_address_of: Final = _Memory.from_buffer
"""Of an array that may be written to and has no gaps, in a quarter of the time of others."""


def _expect_array(dtype: np.dtype[np.generic], *, is_whole: bool) -> _Address:
    """Make the function that checks an array and finds its address."""

    def find_address(array: object) -> ctypes.Array[ctypes.c_char] | int:
        if not isinstance(array, np.ndarray) or array.dtype != dtype:
            msg = (
                f"a kernel must be given an array of {dtype}, got {getattr(array, 'dtype', array)}"
            )
            raise TypeError(msg)
        if is_whole and not array.flags.c_contiguous:
            msg = f"a kernel must be given an array without gaps, got strides of {array.strides}"
            raise ValueError(msg)
        address: int = array.__array_interface__["data"][0]
        return address

    def find_fast(array: Any) -> ctypes.Array[ctypes.c_char] | int:  # noqa: ANN401  checked below
        if type(array) is np.ndarray and array.dtype is dtype:
            try:
                return _address_of(array)  # type: ignore[arg-type]  # an array is a buffer
            except (TypeError, ValueError):
                pass  # it has gaps, or must not be written to
        return find_address(array)

    return find_fast if is_whole else find_address


class _Kernel(NamedTuple):
    function: Callable[..., int]
    addresses: tuple[_Address | None, ...]
    """The function that finds the address of each parameter; None for a number."""


@lru_cache(maxsize=1)
def _functions() -> dict[str, _Kernel]:
    """Load the library, once."""
    library = _load(find_library())
    functions: dict[str, _Kernel] = {}
    addresses = {
        letter: _expect_array(dtype, is_whole=letter.isupper()) for letter, dtype in _DTYPES.items()
    }
    for name, parameters in KERNELS.items():
        function = getattr(library, f"ecg_{name}")
        function.restype = ctypes.c_int64
        function.argtypes = [_NUMBERS.get(letter, ctypes.c_void_p) for letter in parameters]
        functions[name] = _Kernel(function, tuple(addresses.get(one) for one in parameters))
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
