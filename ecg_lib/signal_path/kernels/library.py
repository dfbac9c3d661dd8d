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

# The backend of cffi without its parser of declarations, which takes 80 ms at each start.
from _cffi_backend import FFI
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
_NUMBERS: Final = {"i": "int64_t", "d": "double"}
"""Types in C of what is not an array."""

_ndarray: Final = np.ndarray

_NO_DTYPE: Final = np.dtype("V")
"""Of no array here: arrays with steps are always looked at."""

KERNELS: Final = {
    "accept_by_rules": "IDDiDB",
    "average_slope": "DiiDD",
    "band_pass": "DiiiDDID",
    "cut_beats": "DiIiiiiiFFF",
    "cut_parts": "DIiDiD",
    "describe": "FiiFFFDDFDDDdDiiFFB",
    "filter_rank": "DiiiD",
    "find_extrema": "DiIiiidI",
    "find_flutter": "DiiiDB",
    "find_lines": "DiiiiiidID",
    "find_maxima": "DiiI",
    "find_quiet": "DiddI",
    "find_spikes": "DIiBDB",
    "group_shapes": "FiiidiBI",
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
    TypeError
        If the number of arguments, or the dtype of one, is another.
    ValueError
        If an array that must be contiguous is not.

    """
    function, parameters = _functions()[name]
    if len(arguments) != len(parameters):
        msg = f"the kernel {name} must be given {len(parameters)} arguments, got {len(arguments)}"
        raise TypeError(msg)
    try:
        passed = [
            argument
            if find_address is None
            # Without a call of Python: a strip has 140 arrays.
            else _address_of(argument)
            if type(argument) is _ndarray and argument.dtype is dtype
            else find_address(argument)
            for argument, (dtype, find_address) in zip(arguments, parameters, strict=True)
        ]
    except ValueError as error:
        if "contiguous" not in str(error):
            raise
        msg = f"the kernel {name} must be given arrays without gaps"
        raise ValueError(msg) from error
    result: int = function(*passed)
    if result < 0:
        msg = f"the kernel {name} could not allocate memory"
        raise MemoryError(msg)
    return result


_ffi: Final = FFI()
_address_of: Final = _ffi.from_buffer
"""Of an array without gaps; raises ValueError for another one."""


def _expect_array(dtype: np.dtype[np.generic], *, is_whole: bool) -> Callable[[object], object]:
    """Make the function that checks an array that is not of the usual kind."""

    def find_address(array: object) -> object:
        if not isinstance(array, np.ndarray) or array.dtype != dtype:
            msg = (
                f"a kernel must be given an array of {dtype}, got {getattr(array, 'dtype', array)}"
            )
            raise TypeError(msg)
        if is_whole:
            return _address_of(array)
        return _ffi.cast("void *", array.__array_interface__["data"][0])

    return find_address


_Parameter = tuple[np.dtype[np.generic] | None, Callable[[object], object] | None]
"""The usual dtype of an array, and the function that checks another one; None for a number."""


class _Kernel(NamedTuple):
    function: Callable[..., int]
    parameters: tuple[_Parameter, ...]


@lru_cache(maxsize=1)
def _functions() -> dict[str, _Kernel]:
    """Load the library, once."""
    library = _load(find_library())
    parameter_of: dict[str, _Parameter] = dict.fromkeys(_NUMBERS, (None, None))
    for letter, dtype in _DTYPES.items():
        is_whole = letter.isupper()
        usual = dtype if is_whole else _NO_DTYPE
        parameter_of[letter] = (usual, _expect_array(dtype, is_whole=is_whole))
    functions: dict[str, _Kernel] = {}
    for name, parameters in KERNELS.items():
        address = ctypes.cast(getattr(library, f"ecg_{name}"), ctypes.c_void_p).value
        types = ", ".join(_NUMBERS.get(letter, "void *") for letter in parameters)
        functions[name] = _Kernel(
            _ffi.cast(f"int64_t(*)({types})", address),
            tuple(parameter_of[letter] for letter in parameters),
        )
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
