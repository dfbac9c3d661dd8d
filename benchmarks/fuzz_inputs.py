"""Inputs that nobody should send: valid ones, and what a seeded random generator makes of them.

What is mutated is mostly valid, so that it gets past the first check; signals are odd on purpose
(steps, impulses, square waves, denormals), for the numerics behind all checks.
"""

from __future__ import annotations

import io
import json
import random
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

import numpy as np
from numpy.typing import NDArray

from ecg_lib.records.record import write_wfdb
from ecg_lib.records.simulation.patients import draw_patient
from ecg_lib.records.simulation.simulator import StripKind, simulate_record, simulate_strip

FS_HZ: Final = 100.0
N_SAMPLES: Final = 1000
ID: Final = "4b1f7a3e-6d0c-4c1e-9f43-0d1a2b3c4d5e"

_ODD_TEXTS: Final = (
    "", " ", "\x00", "\ud7ff", "\U0001f4a5", "%00", "%", "../../etc/passwd", "'; DROP TABLE x; --",
    "{{7*7}}", "<script>", "NaN", "None", "null", "-1", "0", "1e999", "١٢٣", "a" * 5000, "\r\nX: y",
    "\u202e", "é" * 100, "[]", "{}", ID, ID.upper(), "MLII", "V", "true",
)  # fmt: skip
_ODD_JSON: Final = (
    "null", "true", "0", "-0", "-1", "1e999", "-1e999", "1e-999", "NaN", "Infinity", "-Infinity",
    "9" * 400, "0.1e", "1.", ".5", "+1", "0x10", "01", '""', '"x"', '"\\ud800"', '"\\u0000"',
    "[]", "[[]]", "{}", '{"a":1,"a":2}', "[" * 200 + "]" * 200, "[" * 5000, '"' + "x" * 70000 + '"',
    "1" + "0" * 5000, "2147483648", "-9223372036854775809", "1e308", "5e-324", "360", "100", "1000",
)  # fmt: skip
_TOKENS: Final = tuple(
    text.encode("utf-8", "surrogatepass")
    for text in (
        *"\x00\n\r\t\"'\\,:;[]{}()%/?#&=+- ", "--", "\r\n\r\n", "nan", "inf", "1e9", "-1", "65535",
        "4294967295", "99999999999999999999", "%s%n", "\ufeff", "\ud800",
    )
)  # fmt: skip
_FIELDS: Final = (
    "signal_data", "sampling_rate", "derivation", "patient_id", "apply_ruleguard", "device", "site",
)  # fmt: skip


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Change bytes: flip, cut, insert, repeat, overwrite by edge values."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        size = len(changed)
        at = rng.randrange(size + 1)
        kind = rng.randrange(7)
        if kind == 0 and size:
            changed[at % size] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del changed[at : at + rng.choice((1, 2, 4, 64, size))]
        elif kind == 2:
            changed[at:at] = rng.choice(_TOKENS) * rng.choice((1, 1, 1, 300))
        elif kind == 3:
            piece = changed[at : at + rng.choice((1, 8, 256))]
            changed[at:at] = piece * rng.choice((1, 2, 40))
        elif kind == 4:
            edge = rng.choice(
                (b"\xff", b"\x00", b"\x7f\xff", b"\x80\x00", b"\xff" * 4, b"\x00" * 8)
            )
            changed[at : at + len(edge)] = edge
        elif kind == 5:
            changed[at : at + 8] = rng.randbytes(rng.randrange(16))
        else:
            token = rng.choice(_TOKENS)
            changed[at : at + len(token)] = token
    return bytes(changed)


def draw_signal(rng: random.Random, *, n_samples: int = N_SAMPLES) -> NDArray[np.float64]:
    """Draw a signal: an ECG, something that is none, or both."""
    random_state = np.random.default_rng(rng.getrandbits(32))
    times = np.arange(n_samples)
    made: list[Callable[[], NDArray[np.float64]]] = [
        lambda: _strip(rng.choice(list(StripKind)), n_samples),
        lambda: np.zeros(n_samples),
        lambda: random_state.normal(0, 10.0 ** rng.uniform(-6, 4), n_samples),
        lambda: np.sign(np.sin(times * rng.uniform(0.001, 3.2))) * 10.0 ** rng.uniform(-3, 4),
        lambda: (times % rng.randint(2, 400) == 0) * 10.0 ** rng.uniform(-3, 4),
        lambda: np.sin(times * rng.uniform(0.001, 3.2)) * 10.0 ** rng.uniform(-320, 4),
        lambda: np.where(times < rng.randrange(n_samples), -1.0, 1.0) * rng.uniform(0, 1e4),
        lambda: np.cumsum(random_state.normal(0, 0.1, n_samples)),
        lambda: np.full(n_samples, 10.0 ** rng.uniform(-320, 4)),
        lambda: np.round(_strip(StripKind.BIGEMINY, n_samples), 0),
    ]
    signal = np.array(rng.choice(made)(), dtype=np.float64)
    if rng.random() < 0.3:
        signal = signal + rng.choice(made)()
    if rng.random() < 0.3:
        start = rng.randrange(n_samples)
        signal[start : start + rng.choice((1, 5, 100, 600))] = rng.choice((0.0, 1.0, 9999.0))
    return np.clip(signal, -1e4, 1e4)


@lru_cache
def _strip(kind: StripKind, n_samples: int) -> NDArray[np.float64]:
    duration_s = n_samples / FS_HZ + 1
    signal = simulate_strip(kind, fs=FS_HZ, seed=5, duration_s=duration_s).signal_mv()
    return np.array(signal[:n_samples], dtype=np.float64)


def draw_json(rng: random.Random) -> bytes:
    """Draw the body of a request for a prediction, valid or nearly so."""
    fields = {
        "signal_data": json.dumps(np.round(draw_signal(rng), 5).tolist()),
        "sampling_rate": rng.choice(("100", "100.0", "128.5", "99.99", "1000")),
    }
    if rng.random() < 0.5:
        fields["derivation"] = rng.choice(('"MLII"', '"V1"', '"II"', '"ECG"'))
    if rng.random() < 0.3:
        fields["patient_id"] = json.dumps(rng.choice(_ODD_TEXTS))
    if rng.random() < 0.3:
        fields["apply_ruleguard"] = rng.choice(("true", "false"))
    if rng.random() < 0.3:
        fields[rng.choice((*_FIELDS, "x", "__proto__"))] = rng.choice(_ODD_JSON)
    text = ",".join(f'"{name}":{value}' for name, value in fields.items())
    if rng.random() < 0.05:
        text += f',"sampling_rate":{rng.choice(_ODD_JSON)}'
    body = f"{{{text}}}".encode("utf-8", "surrogatepass")
    return mutate(body, rng) if rng.random() < 0.3 else body


def draw_float32(rng: random.Random) -> bytes:
    """Draw the samples of a binary body."""
    if rng.random() < 0.2:
        return rng.randbytes(rng.choice((0, 1, 3, 4, 3999, 4000, 4004)))
    body = draw_signal(rng).astype("<f4").tobytes()
    return mutate(body, rng) if rng.random() < 0.4 else body


def draw_npy(rng: random.Random) -> bytes:
    """Draw an NPY file."""
    kind = rng.choice(("<f4", "<f8", ">f4", "<f4", "<f8", "<i2", "<f2", "<c8", "|b1", "<U3"))
    shape = rng.choice(((N_SAMPLES,), (N_SAMPLES,), (N_SAMPLES, 1), (), (0,), (2, 500)))
    values = draw_signal(rng)[: int(np.prod(shape))]
    with np.errstate(all="ignore"):
        array = np.resize(values, shape).astype(kind)
    file = io.BytesIO()
    version = rng.choice(((1, 0), (2, 0), (3, 0)))
    np.lib.format.write_array(file, array, version=version, allow_pickle=False)
    body = file.getvalue()
    if rng.random() < 0.5:
        head = mutate(body[:128], rng)
        return head + body[128:]
    return body


def draw_query(rng: random.Random) -> str:
    """Draw parameters of the address."""
    pairs = [
        (
            rng.choice((*_FIELDS[1:], "format", "start_s", "duration_s", "max_points", "x")),
            rng.choice(
                ("100", "360", "MLII", "true", "false", "json", "pdf", "0", "10", *_ODD_TEXTS)
            )[:2000],
        )
        for _ in range(rng.randrange(4))
    ]
    text = urlencode(pairs, errors="surrogatepass")
    return f"?{text}" if text and rng.random() < 0.9 else rng.choice(("", "?", "?&&", "?=", "?%"))


def draw_feedback(rng: random.Random) -> bytes:
    """Draw the body of feedback."""
    body: dict[str, Any] = {
        "prediction_id": rng.choice((ID, *_ODD_TEXTS)),
        "labels": [
            {"beat_index": rng.choice((0, 1, 9, -1, 2**70)), "arrhythmia_type": rng.choice("NVSX")}
            for _ in range(rng.randrange(4))
        ],
    }
    if rng.random() < 0.4:
        body["annotator"] = rng.choice(_ODD_TEXTS)
    if rng.random() < 0.2:
        body[rng.choice(("labels", "prediction_id", "x"))] = rng.choice((None, 1, [], {}, [[1]]))
    text = json.dumps(body).encode()
    return mutate(text, rng) if rng.random() < 0.4 else text


@dataclass(frozen=True, slots=True)
class Upload:
    """Files of a form by their names, and its fields."""

    files: tuple[tuple[str, bytes], ...]
    fields: tuple[tuple[str, str], ...] = ()


@lru_cache
def valid_uploads() -> tuple[Upload, ...]:
    """Give a recording of 12 s as each kind of file that is taken."""
    record = simulate_record("r", patient=draw_patient(1), duration_s=12.0, seed=4, fs=FS_HZ)
    signal = record.signal_mv()
    with tempfile.TemporaryDirectory() as temporary:
        write_wfdb(record, Path(temporary))
        wfdb = tuple(
            (path.name, path.read_bytes())
            for path in sorted(Path(temporary).iterdir())
            if path.suffix in {".hea", ".dat"}
        )
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in wfdb:
            opened.writestr(name, content)
    npy = io.BytesIO()
    np.save(npy, signal)
    text = "\n".join(
        ["time,MLII", *(f"{index / FS_HZ:.3f},{sample:.4f}" for index, sample in enumerate(signal))]
    )
    rate = (("sampling_rate", f"{FS_HZ:g}"),)
    return (
        Upload(wfdb),
        Upload((("r.zip", archive.getvalue()),)),
        Upload((("r.edf", _write_edf(signal)),)),
        Upload((("r.csv", text.encode()),)),
        Upload((("r.npy", npy.getvalue()),), rate),
    )


def _write_edf(signal_mv: NDArray[np.float32]) -> bytes:
    """Write EDF with one signal and one record a second, by the text of its specification."""
    per_record = round(FS_HZ)
    n_records = len(signal_mv) // per_record
    fixed = [("0", 8), ("X X X X", 80), ("Startdate X X X X", 80), ("01.01.01", 8), ("00.00.00", 8)]
    fixed += [("512", 8), ("", 44), (str(n_records), 8), ("1", 8), ("1", 4)]
    own = [("MLII", 16), ("", 80), ("mV", 8), ("-10", 8), ("10", 8), ("-32768", 8), ("32767", 8)]
    own += [("", 80), (str(per_record), 8), ("", 32)]
    head = "".join(text.ljust(width) for text, width in (*fixed, *own)).encode()
    samples = np.clip(signal_mv[: n_records * per_record] * 3276.7, -32768, 32767).astype("<i2")
    return head + samples.tobytes()


def draw_upload(rng: random.Random) -> Upload:
    """Draw a recording with something wrong in it."""
    valid = rng.choice(valid_uploads())
    files, fields = list(valid.files), list(valid.fields)
    at = rng.randrange(len(files))
    name, content = files[at]
    # Headers are where a few bytes say much.
    head = content[:768]
    content = mutate(head, rng) + content[768:] if rng.random() < 0.7 else mutate(content, rng)
    if rng.random() < 0.2:
        content = rng.choice((b"", content[:100], content * 3, rng.randbytes(600)))
    if rng.random() < 0.15:
        name = rng.choice(
            ("", "a/b.hea", "..\\r.dat", "r.EDF", "r.txt", "r.csv", "r.npy", "x" * 300)
        )
    files[at] = (name, content)
    if rng.random() < 0.1:
        files += files[:1]
    if rng.random() < 0.3:
        name = rng.choice(("lead", "sampling_rate", "unit", "files", "x"))
        fields.append((name, rng.choice(("MLII", "100", "mV", "uV", "1e3", *_ODD_TEXTS))))
    return Upload(tuple(files), tuple(fields))


def write_form(upload: Upload, *, boundary: str = "b0undary") -> bytes:
    """Write an upload as a multipart form."""
    parts = [(f'name="files"; filename="{name}"', content) for name, content in upload.files] + [
        (f'name="{name}"', value.encode("utf-8", "replace")) for name, value in upload.fields
    ]
    written = [
        b"--%s\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n"
        % (boundary.encode(), head.encode("utf-8", "replace"), content)
        for head, content in parts
    ]
    return b"".join(written) + b"--%s--\r\n" % boundary.encode()


@dataclass(frozen=True, slots=True)
class Case:
    """Bytes to send over a connection, and what to call it."""

    kind: str
    request: bytes
    may_close: bool = False
    """True when it is not HTTP, which a server need not answer."""


def _request(
    method: str, path: str, body: bytes = b"", *, media_type: str = "", headers: str = ""
) -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}"
    if media_type:
        head += f"Content-Type: {media_type}\r\n"
    if body or method in {"POST", "PUT"}:
        head += f"Content-Length: {len(body)}\r\n"
    return head.encode("latin-1", "replace") + b"\r\n" + body


def _draw_prediction(rng: random.Random) -> Case:
    path = f"/api/v1/predictions/{draw_query(rng) if rng.random() < 0.3 else ''}"
    media_type = "application/json" if rng.random() < 0.95 else rng.choice(_MEDIA_TYPES)
    return Case("json", _request("POST", path, draw_json(rng), media_type=media_type))


def _draw_binary(rng: random.Random) -> Case:
    query = "?sampling_rate=100" if rng.random() < 0.7 else draw_query(rng)
    path = f"/api/v1/predictions/{query}"
    if rng.random() < 0.5:
        return Case(
            "float32",
            _request("POST", path, draw_float32(rng), media_type="application/octet-stream"),
        )
    return Case("npy", _request("POST", path, draw_npy(rng), media_type="application/x-npy"))


def _draw_feedback(rng: random.Random) -> Case:
    body = draw_feedback(rng)
    return Case(
        "feedback", _request("POST", "/api/v1/feedback/", body, media_type="application/json")
    )


def _draw_recording(rng: random.Random) -> Case:
    form = write_form(draw_upload(rng))
    if rng.random() < 0.25:
        form = mutate(form, rng)
    media_type = "multipart/form-data; boundary=b0undary"
    if rng.random() < 0.1:
        media_type = rng.choice(_MEDIA_TYPES)
    return Case("recording", _request("POST", "/api/v1/recordings/", form, media_type=media_type))


def _draw_read(rng: random.Random) -> Case:
    one = quote(rng.choice((ID, *_ODD_TEXTS)), errors="surrogatepass")[:3000]
    path = rng.choice(_PATHS).format(one=one) + draw_query(rng)
    method = rng.choice(("GET", "GET", "GET", "GET", "DELETE", "PUT", "OPTIONS", "POST"))
    headers = "" if rng.random() < 0.8 else _draw_headers(rng)
    return Case("read", _request(method, path, headers=headers))


def _draw_headers(rng: random.Random) -> str:
    name = rng.choice(
        ("X-Request-ID", "X-API-Key", "Origin", "Range", "If-None-Match", "Accept",
         "Accept-Encoding", "Content-Encoding", "traceparent", "Cookie", "If-Modified-Since")
    )  # fmt: skip
    value = rng.choice(
        (*_ODD_TEXTS, "bytes=0-", "bytes=5-1", "null", "http://x", "http://[x", "[", "gzip")
    )
    return f"{name}: {value}\r\n".replace("\r\nX: y", "").replace("\x00", "")


def _draw_raw(rng: random.Random) -> Case:
    valid = rng.choice(
        (
            _request("GET", "/health"),
            _request("GET", f"/api/v1/predictions/{ID}", headers=_draw_headers(rng)),
            _request("POST", "/api/v1/feedback/", b"{}", media_type="application/json"),
            _CHUNKED,
            b"GET /health HTTP/1.0\r\n\r\n",
        )
    )
    return Case("raw", mutate(valid, rng), may_close=True)


_CHUNKED: Final = (
    b"POST /api/v1/feedback/ HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
)
_MEDIA_TYPES: Final = (
    "", "text/plain", "application/json; charset=utf-16", "multipart/form-data", 'a/b; x="',
    "multipart/form-data; boundary=", f"multipart/form-data; boundary={'x' * 300}", "application/",
)  # fmt: skip
_PATHS: Final = (
    "/", "/health", "/metrics", "/docs", "/openapi.json", "/api/v1/model/",
    "/api/v1/examples/{one}",
    "/api/v1/examples/isolated_pvc", "/api/v1/predictions/{one}", "/api/v1/recordings/{one}",
    "/api/v1/recordings/{one}/result", "/api/v1/recordings/{one}/signal",
    "/api/v1/recordings/{one}/beats", "/static_content/{one}", "/viewer/{one}", "/{one}",
    "/api/v1/recordings/", "/api/v1/feedback/", "//{one}", "/api//v1/{one}",
)  # fmt: skip
_DRAWS: Final[Sequence[tuple[Callable[[random.Random], Case], int]]] = (
    (_draw_prediction, 30),
    (_draw_binary, 25),
    (_draw_feedback, 10),
    (_draw_recording, 12),
    (_draw_read, 15),
    (_draw_raw, 8),
)


def draw_case(rng: random.Random) -> Case:
    """Draw something to send."""
    draws, weights = zip(*_DRAWS, strict=True)
    return rng.choices(draws, weights)[0](rng)
