"""Stream a lead to the service like a file: write samples, read changes of beats.

::

    with LiveStream("http://127.0.0.1:3000", sampling_rate=250) as stream:
        for samples_mv in device:
            stream.write(samples_mv)
            for change in stream.read():
                print(change.start, change.stop, change.is_final, change.beats)

A background thread sends and receives. When the connection breaks, it connects again and sends
again what the service needs; :meth:`LiveStream.read` returns each final beat once. Needs numpy,
httpx and websockets.
"""

from __future__ import annotations

import json
import math
import struct
import threading
import time
import uuid
from collections import deque
from dataclasses import dataclass, fields
from types import TracebackType
from typing import Any, Final, NamedTuple, Self
from urllib.parse import urlsplit, urlunsplit

import numpy as np
from numpy.typing import ArrayLike, NDArray
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from bentos.client.ecg_client import (
    BeatClass,
    ServiceProblemError,
    UnexpectedAnswerError,
    UnreachableError,
)

SUBPROTOCOL: Final = "ecg-live.v1"
RETRIED_STATUSES: Final = frozenset({429, 500, 502, 503, 504})
RETRIED_CODES: Final = frozenset({1001, 1005, 1006, 1011, 1012, 1013, 4408, 4429})
"""Close codes after which the client connects again."""

_PIECE: Final = 30_000
"""Largest number of samples of half a message; a message has up to 256 KiB."""

_NEEDED_S: Final = 900.0
"""Seconds of signal that the service may ask for again."""

_EVERY_S: Final = 0.2
"""Samples that are written within this time are sent together."""

_FIRST_WAIT_S: Final = 0.2
_LONGEST_WAIT_S: Final = 5.0
_OPEN_S: Final = 10.0
_POSITION: Final = struct.Struct("<Q")


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveBeat:
    """One beat; class and probability are None unless its quality is ``ok``."""

    position_sample: int
    """R-peak, in samples since the start of the stream, gaps included."""
    arrhythmia_type: BeatClass | None
    probability_v: float | None
    rr_previous: float | None
    quality: str
    rule: str | None


_BEAT_FIELDS: Final = tuple(field.name for field in fields(LiveBeat))


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """The beats from `start` to `stop`, which replace earlier ones from that stretch."""

    start: int
    stop: int
    is_final: bool
    """Final changes come in order, without gaps, each once."""
    beats: tuple[LiveBeat, ...]
    unreadable: tuple[dict[str, Any], ...]
    findings: tuple[dict[str, Any], ...]
    signal_quality: float | None


class _Segment(NamedTuple):
    position: int
    samples: NDArray[np.float32] | None
    """None for a gap."""
    length: int

    @property
    def stop(self) -> int:
        return self.position + self.length

    @property
    def n_samples(self) -> int:
        return 0 if self.samples is None else self.length


class LiveStream:
    """A live lead.

    Parameters
    ----------
    url : str
        Address of the service.
    sampling_rate : float
        Hz, 100 to 1000.
    api_key : str, optional
    session : str, optional
        Name of the stream, 16 to 64 letters, digits, ``-`` and ``_``; drawn when left out.
    buffer_s : float
        Seconds of signal that are held, so that they can be sent again. The service needs the
        last 15 minutes to give the same beats as for a recording. Unless `drops_oldest`, the buffer
        must hold 900 s and 30,000 samples.
    drops_oldest : bool
        What :meth:`write` does when the buffer is full: drop the oldest samples, as a device must,
        or wait, as for a file.
    give_up_s : float
        Seconds without a connection after which :meth:`write` and :meth:`finish` raise.

    Raises
    ------
    ValueError
        If the URL has another scheme than http and https, or the buffer is too small.

    """

    def __init__(
        self,
        url: str,
        *,
        sampling_rate: float,
        api_key: str | None = None,
        session: str | None = None,
        buffer_s: float = 1800.0,
        drops_oldest: bool = False,
        give_up_s: float = 300.0,
    ) -> None:
        parts = urlsplit(url)
        scheme = {"http": "ws", "https": "wss"}.get(parts.scheme)
        if scheme is None:
            msg = f"url must begin with http:// or https://, got {parts.scheme!r}"
            raise ValueError(msg)
        self._url = urlunsplit(
            (scheme, parts.netloc, f"{parts.path.rstrip('/')}/api/v1/live/", "", "")
        )
        self._headers = {} if api_key is None else {"X-API-Key": api_key}
        self.session = session or uuid.uuid4().hex
        self._fs = sampling_rate
        self._room = round(buffer_s * sampling_rate)
        least = math.ceil(_NEEDED_S * sampling_rate) + _PIECE
        if not drops_oldest and self._room < least:
            msg = (
                f"buffer_s must be at least {math.ceil(least / sampling_rate)} at {sampling_rate:g}"
                f" Hz unless drops_oldest is set, got {buffer_s:g}"
            )
            raise ValueError(msg)
        self._drops_oldest = drops_oldest
        self._give_up_s = give_up_s
        self._changed = threading.Condition()
        self._segments: deque[_Segment] = deque()
        self._written_to = self._sent_to = self._n_held = 0
        self._mark: dict[str, int] = {"block": 0, "position": 0}
        self._pending: list[Change] = []
        self._is_finishing = self._is_finished = self._is_closed = False
        self._error: Exception | None = None
        self._connection: ClientConnection | None = None
        self.connections = 0
        """Connections that were made so far."""
        self.lost_samples = 0
        """Samples that were dropped before the service had them."""
        self._thread = threading.Thread(target=self._run, name="ecg-live", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def written_to(self) -> int:
        """Position of the next sample: the samples written so far, gaps included."""
        return self._written_to

    @property
    def final_to(self) -> int:
        """Position of the first sample whose beats are not final."""
        return self._mark["position"]

    def write(self, samples_mv: ArrayLike) -> int:
        """Add samples in mV, NaN where one is missing; return how many.

        Raises
        ------
        ServiceProblemError
            If the service rejected the stream.
        UnreachableError
            If there has been no connection for too long.

        """
        samples = np.array(samples_mv, dtype=np.float32)
        if samples.ndim != 1:
            msg = f"samples must be of one lead, got shape {samples.shape}"
            raise ValueError(msg)
        for start in range(0, len(samples), _PIECE):
            piece = samples[start : start + _PIECE]
            self._add(_Segment(self._written_to, piece, len(piece)))
        return len(samples)

    def gap(self, n_samples: int) -> None:
        """Declare samples that were not recorded; they count as no pause.

        Raises
        ------
        ServiceProblemError, UnreachableError
            See :meth:`write`.

        """
        if n_samples <= 0:
            msg = f"a gap must have at least one sample, got {n_samples}"
            raise ValueError(msg)
        self._add(_Segment(self._written_to, None, n_samples))

    def read(self) -> list[Change]:
        """Return what has changed since the last call, in order; does not wait.

        Provisional beats that have become final meanwhile are left out.

        Raises
        ------
        ServiceProblemError
            If the service rejected the stream, and everything before was read.

        """
        with self._changed:
            changes, self._pending = self._pending, []
            if not changes and self._error is not None:
                raise self._error
        return changes

    def finish(self, timeout_s: float | None = None) -> list[Change]:
        """Send what is left, wait until all beats are final, and return the changes.

        Raises
        ------
        ServiceProblemError, UnreachableError
            See :meth:`write`.
        TimeoutError
            If it takes longer.
        ValueError
            If the stream was closed before.

        """
        with self._changed:
            self._is_finishing = True
            self._changed.notify_all()
            is_done = self._changed.wait_for(
                lambda: self._is_finished or self._is_closed or self._error is not None, timeout_s
            )
            if self._error is not None:
                raise self._error
            if self._is_closed and not self._is_finished:
                msg = "the stream is closed: no more beats become final"
                raise ValueError(msg)
        if not is_done:
            msg = f"the beats must be final within {timeout_s} s, they are not"
            raise TimeoutError(msg)
        return self.read()

    def close(self) -> None:
        """Close the connection; provisional beats stay provisional."""
        with self._changed:
            self._is_closed = True
            connection = self._connection
            self._changed.notify_all()
        if connection is not None:
            connection.close()
        self._thread.join()

    def _add(self, segment: _Segment) -> None:
        with self._changed:
            if not self._drops_oldest:
                self._changed.wait_for(
                    lambda: (
                        self._has_room()
                        or self._error is not None
                        or self._is_finishing
                        or self._is_closed
                    )
                )
            if self._error is not None:
                raise self._error
            if self._is_finishing or self._is_closed:
                msg = "the stream is finished: nothing can be added"
                raise ValueError(msg)
            self._segments.append(segment._replace(position=self._written_to))
            self._written_to += segment.length
            self._n_held += segment.n_samples
            while self._drops_oldest and not self._has_room():
                if self._segments[0].stop > self._sent_to:
                    self.lost_samples += self._segments[0].n_samples
                self._drop()
            self._changed.notify_all()

    def _has_room(self) -> bool:
        return self._n_held <= self._room

    def _drop(self) -> None:
        self._n_held -= self._segments.popleft().n_samples

    def _run(self) -> None:
        wait_s, since_s = _FIRST_WAIT_S, time.monotonic()
        while not (self._is_closed or self._is_finished or self._error):
            n_before = self.connections
            try:
                self._connect()
            except (ServiceProblemError, UnexpectedAnswerError) as error:
                self._fail(error)
                return
            except (OSError, TimeoutError, InvalidHandshake, ConnectionClosed) as error:
                if self._has_last_beats():
                    return
                if self.connections > n_before:  # it was open
                    wait_s, since_s = _FIRST_WAIT_S, time.monotonic()
                if time.monotonic() - since_s > self._give_up_s:
                    unreachable = UnreachableError(f"{self._url} cannot be reached")
                    unreachable.__cause__ = error
                    self._fail(unreachable)
                    return
            except Exception as error:  # noqa: BLE001  callers of read and write get it
                self._fail(_wrap(error))
                return
            with self._changed:
                if not self._is_finished:
                    self._changed.wait_for(lambda: self._is_closed, wait_s)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)

    def _has_last_beats(self) -> bool:
        """Finish a stream whose connection broke after the last beats had come."""
        with self._changed:
            if self._is_finishing and 0 < self._written_to == self._mark["position"]:
                self._is_finished = True
                self._changed.notify_all()
            return self._is_finished

    def _fail(self, error: Exception) -> None:
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def _connect(self) -> None:
        """Make a connection and use it until it ends."""
        try:
            connection = connect(
                self._url,
                subprotocols=[SUBPROTOCOL],  # type: ignore[list-item]  # a NewType of str
                additional_headers=self._headers,
                compression=None,
                open_timeout=_OPEN_S,
                max_size=2**24,
                proxy=None,
            )
        except InvalidStatus as refused:
            status, body = refused.response.status_code, refused.response.body
            if status in RETRIED_STATUSES:
                raise
            raise _read_problem(status, body) from refused
        with connection:
            with self._changed:
                self._connection = connection
            if self._is_closed:
                return
            self._use(connection)

    def _use(self, connection: ClientConnection) -> None:
        with self._changed:
            first = self._segments[0].position if self._segments else self._written_to
            start = {
                "type": "start",
                "session": self.session,
                "sampling_rate": self._fs,
                "position": min(first, self._written_to),
                "mark": self._mark,
            }
        connection.send(json.dumps(start))
        problem: dict[str, Any] | None = None
        sender: threading.Thread | None = None
        is_open = threading.Event()
        is_open.set()
        try:
            while not self._is_finished:
                message = json.loads(connection.recv())
                kind = message.get("type")
                if kind == "started":
                    self.connections += 1
                    self._sent_to = message["send_from"]
                    sender = threading.Thread(
                        target=self._send, args=(connection, is_open), daemon=True
                    )
                    sender.start()
                elif kind == "problem":
                    problem = message["problem"]
                else:
                    self._apply(message)
        except ConnectionClosed as closed:
            code = 1006 if closed.rcvd is None else closed.rcvd.code
            if self._is_finished or self._is_closed or self._error:
                return
            if code in RETRIED_CODES:
                raise
            detail = "" if closed.rcvd is None else closed.rcvd.reason
            raise ServiceProblemError(
                problem or {"type": f"/problems/closed-{code}", "detail": detail},
                request_id="",
                retry_after_s=None,
            ) from closed
        finally:
            is_open.clear()
            with self._changed:
                self._connection = None
                self._changed.notify_all()
            if sender is not None:
                sender.join()

    def _send(self, connection: ClientConnection, is_open: threading.Event) -> None:
        """Send what is written, until the connection ends."""
        try:
            while is_open.is_set():
                with self._changed:
                    self._changed.wait_for(
                        lambda: (
                            self._written_to > self._sent_to
                            or self._is_finishing
                            or not is_open.is_set()
                        )
                    )
                    message = self._take()
                    is_finishing = self._is_finishing
                if message is not None:
                    connection.send(message)
                elif is_finishing and is_open.is_set():
                    connection.send(json.dumps({"type": "finish"}))
                    return
                if self._written_to == self._sent_to and not is_finishing:
                    time.sleep(_EVERY_S)
        except ConnectionClosed:
            return  # the receiving thread gets it too
        except Exception as error:  # noqa: BLE001  callers of read and write get it
            self._fail(_wrap(error))
            connection.close()

    def _take(self) -> bytes | str | None:
        """Make the next message; None when everything is sent."""
        position, count = self._sent_to, 0
        parts: list[NDArray[np.float32]] = []
        for segment in self._segments:
            if segment.stop <= position:
                continue
            offset = position - segment.position
            if offset < 0:  # samples were dropped meanwhile
                self._sent_to = segment.position
                return _write_gap(position, -offset)
            if segment.samples is None:
                if parts:
                    break
                self._sent_to = segment.stop
                return _write_gap(position, segment.length - offset)
            if count + segment.length - offset > 2 * _PIECE:
                break
            parts.append(segment.samples[offset:])
            count, position = count + segment.length - offset, segment.stop
        if not parts:
            return None
        content = _POSITION.pack(self._sent_to) + np.concatenate(parts).astype("<f4").tobytes()
        self._sent_to = position
        return content

    def _apply(self, message: dict[str, Any]) -> None:
        kind = message.get("type")
        with self._changed:
            if kind == "beats":
                self._note(_read_change(message), message)
            elif kind == "finished":
                self._is_finished = True
            elif kind != "model":
                msg = f"the service sent a message of the unknown type {kind!r}"
                raise UnexpectedAnswerError(msg)
            self._changed.notify_all()

    def _note(self, change: Change, message: dict[str, Any]) -> None:
        if change.is_final:
            if change.start != self._mark["position"]:
                msg = (
                    f"final beats must continue at {self._mark['position']}, "
                    f"got those from {change.start}"
                )
                raise UnexpectedAnswerError(msg)
            self._mark = message["mark"]
            while self._segments and self._segments[0].stop <= message["needed_from"]:
                self._drop()
            self._pending = [one for one in self._pending if one.is_final or one.stop > change.stop]
        self._pending.append(change)


def _wrap(error: Exception) -> UnexpectedAnswerError:
    unexpected = UnexpectedAnswerError(f"the stream ended by {type(error).__name__}: {error}")
    unexpected.__cause__ = error
    return unexpected


def _write_gap(position: int, n_samples: int) -> str:
    return json.dumps({"type": "gap", "position": position, "samples": n_samples})


def _read_change(message: dict[str, Any]) -> Change:
    return Change(
        start=message["from"],
        stop=message["to"],
        is_final=message["final"],
        beats=tuple(
            LiveBeat(**{name: beat[name] for name in _BEAT_FIELDS}) for beat in message["beats"]
        ),
        unreadable=tuple(message["unreadable"]),
        findings=tuple(message["findings"]),
        signal_quality=message["signal_quality"],
    )


def _read_problem(status: int, body: bytes | bytearray) -> ServiceProblemError:
    try:
        problem = json.loads(body)
    except ValueError:
        problem = {}
    return ServiceProblemError({"status": status, **problem}, request_id="", retry_after_s=None)
