"""Decode the sample formats of WFDB signal files (WFDB signal(5))."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecg_lib.errors import CorruptRecordError, UnsupportedRecordError

if TYPE_CHECKING:
    import soundfile

FRAMES_AT_ONCE: Final = 131_040
"""A multiple of six: 212 packs two samples together, 310 and 311 pack three."""

_SAMPLES_AT_ONCE: Final = 2**20
"""Frames of a second, as conversions from EDF have them, hold hundreds of samples each."""


_WORKSPACES: Final = (b"MATLAB 5.0 MAT-file", b"MATLAB 7.3 MAT-file")


class Encoding(NamedTuple):
    """How samples are stored."""

    bytes_of: Callable[[int], int]
    """Bytes of so many samples."""
    decode: Callable[[NDArray[np.uint8]], NDArray[np.int64]]
    invalid: int | None
    """The value that marks a sample as missing; None when the format has none."""


def _integers(dtype: str) -> Callable[[NDArray[np.uint8]], NDArray[np.int64]]:
    return lambda raw: raw.view(dtype).astype(np.int64)


def _decode_80(raw: NDArray[np.uint8]) -> NDArray[np.int64]:
    return raw.astype(np.int64) - 128


def _decode_160(raw: NDArray[np.uint8]) -> NDArray[np.int64]:
    return raw.view("<u2").astype(np.int64) - 32768


def _decode_24(raw: NDArray[np.uint8]) -> NDArray[np.int64]:
    low, middle, high = raw.reshape(-1, 3).astype(np.int64).T
    return np.asarray(((high << 16 | middle << 8 | low) ^ 0x800000) - 0x800000)


def _decode_212(raw: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Two samples of twelve bits in three bytes; of an odd number the last has two."""
    padded = np.pad(raw, (0, -len(raw) % 3)).reshape(-1, 3).astype(np.int64)
    first = padded[:, 0] | (padded[:, 1] & 0x0F) << 8
    second = padded[:, 2] | (padded[:, 1] & 0xF0) << 4
    pairs = np.stack([first, second], axis=1).ravel()
    return np.asarray((pairs ^ 0x800) - 0x800)


def _decode_310(raw: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Three of ten bits in two words: bits 1 to 10 of each, and the highest five of both."""
    words = np.pad(raw, (0, -len(raw) % 4)).view("<u2").reshape(-1, 2).astype(np.int64)
    first, second = words[:, 0] >> 1 & 0x3FF, words[:, 1] >> 1 & 0x3FF
    third = words[:, 0] >> 11 | words[:, 1] >> 11 << 5
    triples = np.stack([first, second, third], axis=1).ravel()
    return np.asarray((triples ^ 0x200) - 0x200)


def _decode_311(raw: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Three samples of ten bits in four bytes, the first in the lowest bits."""
    words = np.pad(raw, (0, -len(raw) % 4)).view("<u4").astype(np.int64)
    triples = np.stack([words & 0x3FF, words >> 10 & 0x3FF, words >> 20 & 0x3FF], axis=1).ravel()
    return np.asarray((triples ^ 0x200) - 0x200)


def _bytes_of_310(count: int) -> int:
    return count // 3 * 4 + (0, 2, 4)[count % 3]


def _bytes_of_311(count: int) -> int:
    return count // 3 * 4 + (0, 2, 3)[count % 3]


DIFFERENCES: Final = 8
"""The format whose samples are differences of eight bits to the one before."""

ENCODINGS: Final[dict[int, Encoding]] = {
    DIFFERENCES: Encoding(lambda count: count, _integers("i1"), None),
    16: Encoding(lambda count: 2 * count, _integers("<i2"), -(2**15)),
    24: Encoding(lambda count: 3 * count, _decode_24, -(2**23)),
    32: Encoding(lambda count: 4 * count, _integers("<i4"), -(2**31)),
    61: Encoding(lambda count: 2 * count, _integers(">i2"), -(2**15)),
    80: Encoding(lambda count: count, _decode_80, -(2**7)),
    160: Encoding(lambda count: 2 * count, _decode_160, -(2**15)),
    212: Encoding(lambda count: (3 * count + 1) // 2, _decode_212, -(2**11)),
    310: Encoding(_bytes_of_310, _decode_310, -(2**9)),
    311: Encoding(_bytes_of_311, _decode_311, -(2**9)),
}

FLAC_BITS: Final = {508: 8, 516: 16, 524: 24}
"""Formats that are compressed by FLAC, with the bits of a sample."""

KNOWN_FORMATS: Final = tuple(sorted({*ENCODINGS, *FLAC_BITS}))


def invalid_value(encoding: int) -> int | None:
    """Return the value that marks a sample as missing."""
    if encoding in FLAC_BITS:
        return -(1 << (FLAC_BITS[encoding] - 1))
    return ENCODINGS[encoding].invalid


def count_frames(path: Path, encoding: int, *, offset: int, per_frame: Sequence[int]) -> int:
    """Count the whole frames that a signal file holds; `per_frame` is of each signal.

    Raises
    ------
    CorruptRecordError
        If it should be a FLAC file, and is not.
    UnsupportedRecordError
        If it is a FLAC file of signals that have several rates.

    """
    if encoding in FLAC_BITS:
        per_signal = _of_flac(per_frame)
        with _open_flac(path, encoding, n_channels=len(per_frame)) as flac:
            return max(0, int(flac.frames) - offset) // per_signal
    frame_samples = sum(per_frame)
    size = path.stat().st_size - offset
    bytes_of = ENCODINGS[encoding].bytes_of
    frames = max(0, size) * 6 // (bytes_of(6) * frame_samples)
    while frames and bytes_of(frames * frame_samples) > size:
        frames -= 1
    return frames


def read_frames(
    path: Path, encoding: int, *, offset: int, per_frame: Sequence[int], n_frames: int
) -> Iterator[NDArray[np.int64]]:
    """Read the digital samples block by block, shape ``(n_frames, sum(per_frame))``.

    A frame holds the samples of one signal after those of another, `per_frame` of each.

    Raises
    ------
    CorruptRecordError
        If a FLAC file cannot be decoded.

    """
    if encoding in FLAC_BITS:
        yield from _read_flac(path, encoding, offset=offset, per_frame=per_frame, n_frames=n_frames)
        return
    frame_samples = sum(per_frame)
    bytes_of, decode, _ = ENCODINGS[encoding]
    with path.open("rb") as file:
        file.seek(offset)
        at_once = max(6, min(FRAMES_AT_ONCE, _SAMPLES_AT_ONCE // frame_samples // 6 * 6))
        for start in range(0, n_frames, at_once):
            count = min(at_once, n_frames - start) * frame_samples
            raw = np.fromfile(file, dtype=np.uint8, count=bytes_of(count))
            yield decode(raw)[:count].reshape(-1, frame_samples)


def _of_flac(per_frame: Sequence[int]) -> int:
    """Return the samples of one signal in a frame; channels of FLAC have one rate."""
    if len(set(per_frame)) > 1:
        msg = (
            "the signals of one FLAC file of a WFDB record must have one rate, a frame has "
            f"{', '.join(map(str, per_frame))} samples of them"
        )
        raise UnsupportedRecordError(msg)
    return per_frame[0]


def _open_flac(path: Path, encoding: int, *, n_channels: int) -> soundfile.SoundFile:
    import soundfile  # noqa: PLC0415  a tenth of a second that other formats need not wait

    with path.open("rb") as file:
        is_flac = file.read(4) == b"fLaC"
    msg = f"a WFDB signal of format {encoding} must be a FLAC file with a channel for each signal"
    if not is_flac:
        raise CorruptRecordError(msg)
    try:
        opened = soundfile.SoundFile(path)
    except (RuntimeError, OSError) as error:  # of libsndfile
        raise CorruptRecordError(msg) from error
    bits = {"PCM_S8": 8, "PCM_16": 16, "PCM_24": 24}.get(opened.subtype, 0)
    if opened.channels != n_channels or not 0 < bits <= FLAC_BITS[encoding]:
        opened.close()
        raise CorruptRecordError(msg)
    return opened


def _read_flac(
    path: Path, encoding: int, *, offset: int, per_frame: Sequence[int], n_frames: int
) -> Iterator[NDArray[np.int64]]:
    """Read frames; a FLAC file has a row for each sample, and not for each frame."""
    rows = _of_flac(per_frame)
    with _open_flac(path, encoding, n_channels=len(per_frame)) as flac:
        shift = {"PCM_S8": 24, "PCM_16": 16, "PCM_24": 8}[flac.subtype]
        try:
            flac.seek(offset)
            at_once = max(1, _SAMPLES_AT_ONCE // (rows * len(per_frame)))
            for start in range(0, n_frames, at_once):
                count = min(at_once, n_frames - start) * rows
                block = flac.read(count, dtype="int32", always_2d=True)
                if len(block) < count:
                    msg = "the FLAC file of the WFDB record is cut off"
                    raise CorruptRecordError(msg)
                samples = block.astype(np.int64) >> shift  # (n_rows, n_signals)
                by_frame = samples.reshape(-1, rows, len(per_frame)).transpose(0, 2, 1)
                yield by_frame.reshape(len(by_frame), -1)
        except RuntimeError as error:  # of libsndfile
            msg = "the FLAC file of the WFDB record cannot be decoded: it is damaged"
            raise CorruptRecordError(msg) from error


def refuse_workspace(path: Path) -> None:
    """Refuse a MATLAB file of version 5 or later, whose bytes are not those of samples.

    WFDB reads version 4 alone: 24 bytes, and then the samples.

    Raises
    ------
    UnsupportedRecordError

    """
    with path.open("rb") as file:
        start = file.read(len(_WORKSPACES[0]))
    if start in _WORKSPACES:
        msg = (
            "a MATLAB file must be of version 4 and have a WFDB header (.hea), this one is of "
            "version 5 or later; save the signal as text, or by save(..., '-v4') with its header"
        )
        raise UnsupportedRecordError(msg)
