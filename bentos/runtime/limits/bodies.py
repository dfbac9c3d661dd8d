"""Read the body of a request: within limits of bytes, and decompressed when it is compressed."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from fastapi import Request

from bentos.runtime.limits.memory import MemoryShare
from bentos.wire.problems import (
    MALFORMED_ENCODING,
    TOO_LARGE,
    WRONG_ENCODING,
    WRONG_MEDIA_TYPE,
    ProblemError,
)

_PIECE_BYTES: Final = 2**18
_EXPANDING: Final = ThreadPoolExecutor(1, thread_name_prefix="expand")
"""For bodies that expand to more than a piece: strips of three minutes and longer, and bombs."""
_WINDOW_BITS: Final = {"gzip": zlib.MAX_WBITS + 16, "x-gzip": zlib.MAX_WBITS + 16, "deflate": 15}


def announced_bytes(request: Request) -> int | None:
    """Return the length of the body that a client states; None when it states none.

    uvicorn has rejected a Content-Length that is not a number. The length of a compressed body
    says nothing about what it holds.
    """
    length = request.headers.get("content-length")
    if length is None or _encoding_of(request) != "identity":
        return None
    return int(length)


async def read_body(
    request: Request, max_bytes: int, *, accepted: Sequence[str], share: MemoryShare
) -> tuple[str, bytes]:
    """Read the media type and a body of one of those accepted; stop where it is too large.

    What is announced, and what comes, is taken from the memory that the client may hold.

    Raises
    ------
    ProblemError
        If the media type is another, the body is too large, or too much is in memory.

    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in accepted:
        raise ProblemError(WRONG_MEDIA_TYPE, f"Content-Type must be {' or '.join(accepted)}")
    too_large = ProblemError(TOO_LARGE, f"the body must have at most {max_bytes} bytes")
    if (announced_bytes(request) or 0) > max_bytes:
        raise too_large
    share.grow_to(announced_bytes(request) or 0)
    body = bytearray()
    async for chunk in decoded(request):
        body += chunk
        if len(body) > max_bytes:
            raise too_large
        share.grow_to(len(body))
    return media_type, bytes(body)


def decoded(request: Request) -> AsyncIterator[bytes]:
    """Give the pieces of a body, decompressed; each is small, whatever the body expands to.

    Raises
    ------
    ProblemError
        If its encoding is not supported or its content not of that encoding.

    """
    encoding = _encoding_of(request)
    if encoding == "identity":
        return request.stream()
    if encoding not in _WINDOW_BITS:
        raise ProblemError(
            WRONG_ENCODING,
            f"Content-Encoding must be gzip, deflate or absent, got {encoding[:40]!r}",
        )
    return _decompress(request.stream(), _WINDOW_BITS[encoding])


def _encoding_of(request: Request) -> str:
    return request.headers.get("content-encoding", "").strip().lower() or "identity"


async def _decompress(stream: AsyncIterator[bytes], window_bits: int) -> AsyncIterator[bytes]:
    decoder = zlib.decompressobj(window_bits)
    loop = asyncio.get_running_loop()
    try:
        async for chunk in stream:
            pieces = _expand(decoder, chunk)
            piece = next(pieces, None)
            while piece is not None:
                yield piece
                if len(piece) < _PIECE_BYTES:
                    break
                # A small chunk may expand to many pieces: other requests come in between.
                piece = await loop.run_in_executor(_EXPANDING, next, pieces, None)
            if decoder.unused_data:
                break
    except zlib.error as error:
        raise _malformed() from error
    if not decoder.eof or decoder.unused_data:
        raise _malformed()


def _expand(decoder: zlib._Decompress, chunk: bytes) -> Iterator[bytes]:
    """Decompress piece by piece, so that a bomb is noticed after its first piece too many."""
    waiting, is_full = chunk, True
    while (waiting or is_full) and not decoder.eof:
        piece = decoder.decompress(waiting, _PIECE_BYTES)
        waiting, is_full = decoder.unconsumed_tail, len(piece) == _PIECE_BYTES
        yield piece


def _malformed() -> ProblemError:
    return ProblemError(
        MALFORMED_ENCODING, "the body must be one whole stream of its Content-Encoding"
    )
