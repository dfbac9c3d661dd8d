"""Give the readers of files and bodies what a fuzzer makes; only our own errors may come out.

``--engine atheris`` (group ``fuzz`` of pyproject.toml) is led by coverage; ``--engine mutate``
needs nothing and is seeded. Both give each case to :func:`read_one`, in this process. Prints JSON.
``--each`` mutates ``--cases`` inputs of every reader, each reader in a process of its own so that
its memory can be measured, prints a table, and keeps the figures in ``results/fuzz_readers.json``.
"""

from __future__ import annotations

import argparse
import asyncio
import binascii
import contextlib
import gzip
import importlib
import io
import json
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pydantic import BaseModel

CASE_S: Final = 120
MAX_BYTES: Final = 16_384
MAX_LINES: Final = 400
"""Lines of a text: more of them cost time, and reach the same code."""
BOUNDARY: Final = "b0undary"

RESULTS: Final = Path(__file__).parent / "results"

_CASES: Final = Path(__file__).parents[1] / "tests" / "cases"

_EXECUTED: Final = re.compile(r"stat::number_of_executed_units:\s*(\d+)")


def main() -> int:
    """Fuzz; 0 when nothing was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=("atheris", "mutate"), default="mutate")
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--readers", nargs="*", help="names of READERS; all when left out")
    parser.add_argument("--each", action="store_true", help="so many cases of every reader")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside is not None:
        _run_atheris(arguments.inside, cases=arguments.cases, seed=arguments.seed)
    cases, seed = arguments.cases, arguments.seed
    if arguments.each:
        return _fuzz_each(arguments.readers or list(dict(READERS)), cases=cases, seed=seed)
    report = (
        fuzz_by_coverage(cases=cases, seed=seed)
        if arguments.engine == "atheris"
        else fuzz_by_mutation(cases=cases, seed=seed, readers=arguments.readers)
    )
    sys.stdout.write(json.dumps(report) + "\n")
    return int(bool(report["n_failures"]))


def fuzz_by_mutation(
    *, cases: int, seed: int, readers: Sequence[str] | None = None
) -> dict[str, Any]:
    """Read mutated valid inputs, of some readers or of all."""
    from fuzz_inputs import mutate

    rng = random.Random(seed)  # noqa: S311  nothing secret
    corpus = [one for one in make_corpus() if not readers or READERS[one[0]][0] in readers]
    outcomes: Counter[str] = Counter()
    failures: list[dict[str, str]] = []
    slowest_s, slowest_bytes = 0.0, 0
    for _ in range(cases):
        valid = rng.choice(corpus)
        data = valid[:1] + mutate(valid[1:], rng)
        started = time.process_time()
        try:
            outcomes[f"{READERS[data[0]][0]} {read_one(data)}"] += 1
        except Exception as error:  # noqa: BLE001  whatever it is, it is what is looked for
            failures.append({"error": repr(error), "input": repr(data[:400])})
        lasted_s = time.process_time() - started
        if lasted_s > slowest_s:
            slowest_s, slowest_bytes = lasted_s, len(data)
    return {
        "engine": "mutate",
        "cases": cases,
        "seed": seed,
        "outcomes": dict(sorted(outcomes.items())),
        "slowest_cpu_s": round(slowest_s, 3),
        "slowest_bytes": slowest_bytes,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "n_failures": len(failures),
        "failures": failures[:20],
    }


def _fuzz_each(readers: Sequence[str], *, cases: int, seed: int) -> int:
    """Fuzz each reader in a process of its own; print and keep a row for each."""
    path = RESULTS / "fuzz_readers.json"
    rows = json.loads(path.read_text()) if path.exists() else {}
    sys.stdout.write(f"{'reader':14} {'cases':>7} {'read':>7} findings slowest_s  bytes peak_mib\n")
    n_failures = 0
    for reader in readers:
        command = [sys.executable, __file__, "--cases", str(cases), "--seed", str(seed)]
        done = subprocess.run(
            [*command, "--readers", reader], check=False, capture_output=True, text=True
        )
        try:
            report = json.loads(done.stdout)
        except ValueError:  # the process ended: the worst finding
            report = {"cases": cases, "outcomes": {}, "slowest_cpu_s": -1, "slowest_bytes": -1}
            report |= {"peak_mib": -1, "n_failures": 1, "failures": [done.stderr[-3000:]]}
        row = {
            "cases": report["cases"],
            "seed": seed,
            "read": report["outcomes"].get(f"{reader} read", 0),
            **{key: report[key] for key in ("n_failures", "slowest_cpu_s", "slowest_bytes")},
            "peak_mib": report["peak_mib"],
        }
        n_failures += row["n_failures"]
        sys.stdout.write(
            f"{reader:14} {row['cases']:7} {row['read']:7} {row['n_failures']:8} "
            f"{row['slowest_cpu_s']:9} {row['slowest_bytes']:6} {row['peak_mib']:8}\n"
        )
        for failure in report["failures"]:
            sys.stdout.write(f"  {failure}\n")
        sys.stdout.flush()
        rows[reader] = row
        path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return int(bool(n_failures))


def fuzz_by_coverage(*, cases: int, seed: int) -> dict[str, Any]:
    """Let atheris look for inputs that reach other code, in a process that it may end."""
    with tempfile.TemporaryDirectory() as temporary:
        corpus = Path(temporary) / "corpus"
        corpus.mkdir()
        for number, data in enumerate(make_corpus()):
            (corpus / f"valid{number}").write_bytes(data)
        command = [sys.executable, __file__, "--inside", str(corpus)]
        command += ["--cases", str(cases), "--seed", str(seed)]
        done = subprocess.run(
            command, cwd=temporary, check=False, capture_output=True, text=True, errors="replace"
        )
        # A slow-unit is not a finding: it says that the machine was busy.
        found = [
            path
            for kind in ("crash", "timeout", "oom", "leak")
            for path in Path(temporary).glob(f"{kind}-*")
        ]
        failures = [
            {"error": done.stdout[-3000:], "input": repr(path.read_bytes()[:2000])}
            for path in found
        ]
        if done.returncode != 0 and not failures:
            failures = [{"error": (done.stdout + done.stderr)[-3000:], "input": ""}]
        executed = _EXECUTED.search(done.stderr)
        return {
            "engine": "atheris",
            "cases": int(executed[1]) if executed else 0,
            "seed": seed,
            "corpus": len(list(corpus.iterdir())),
            "n_failures": len(failures),
            "failures": failures,
        }


def _run_atheris(corpus: Path, *, cases: int, seed: int) -> None:
    import atheris

    with atheris.instrument_imports(include=["ecg_lib", "bentos"]):
        for name in (
            "bentos.wire.inputs",
            "bentos.runtime.spool",
            "bentos.recordings.uploads",
            "ecg_lib.records.files.archives",
        ):
            importlib.import_module(name)
    limits = [f"-runs={cases}", f"-seed={seed}", f"-timeout={CASE_S}", f"-max_len={MAX_BYTES}"]
    flags = ["-print_final_stats=1", "-rss_limit_mb=3000", "-verbosity=1"]
    atheris.Setup([sys.argv[0], *limits, *flags, str(corpus)], read_one)
    atheris.Fuzz()


def make_corpus() -> list[bytes]:
    """Make a valid input of each reader; the first byte says whose it is."""
    from fuzz_inputs import Upload, draw_float32, draw_json, draw_npy, valid_uploads, write_form

    rng = random.Random(3)  # noqa: S311  nothing secret
    wfdb, archive, edf, csv, npy = valid_uploads()
    header = dict(wfdb.files)["r.hea"]
    contents = {
        **_make_exports(),
        "edf": edf.files[0][1],
        "csv": b"".join(csv.files[0][1].splitlines(keepends=True)[:MAX_LINES]),
        "npy file": npy.files[0][1],
        "wfdb header": header,
        "zip": archive.files[0][1],
        "wfdb flac": _write_flac(),
        "wfdb signal": b"\x10\x20\x30" * 700,
        "zip header": header,
        "form": write_form(Upload(wfdb.files, (("lead", "MLII"),)), boundary=BOUNDARY),
        "json": b'{"signal_data":[0,1,0.5,-1e3],"sampling_rate":100,"derivation":"MLII"}',
        "float32": draw_float32(rng),
        "npy": npy.files[0][1],
        "spool": b'{"prediction":{"prediction_id":"a","created_at":"2026-01-01T00:00:00+00:00",'
        b'"patient_key":null,"bundle_hash":"h","bento_tag":"b","duration_s":10.0,"response":{},'
        b'"observed":{}}}',
        "feedback": b'{"prediction_id":"a","labels":[{"beat_index":1,"arrhythmia_type":"V"}]}',
    }
    text = contents["csv"]
    table = Upload((("r.csv", text),), (("is_part", "true"),))
    contents |= {
        "table form": write_form(table, boundary=BOUNDARY),
        "gzip": gzip.compress(text),
        "zip of text": _pack({"a/ECG.csv": text, "a/ACC.csv": text, "a/README.txt": b"words"}),
    }
    corpus = [bytes([number]) + contents[name] for number, (name, _) in enumerate(READERS)]
    corpus += [bytes([_number_of(name)]) + content for name, content in _read_cases()]
    drawn = (("json", draw_json(rng)), ("npy", draw_npy(rng)))
    return [*corpus, *(bytes([_number_of(name)]) + content for name, content in drawn)]


def _pack(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


def _read_cases() -> list[tuple[str, bytes]]:
    """Read files as people have them, which reach other code: other separators, clocks, EDF+D."""
    texts = (
        *("csv-apple-watch/apple.csv", "csv-decimal-comma/semicolon_comma.csv"),
        *("csv-physionet-units-row/unitrow.csv", "csv-polar-h10/polar.csv"),
        *("csv-text-column/iso.csv", "csv-other-shapes/whitespace_hdr.csv"),
    )
    found = []
    for name in texts:
        lines = (_CASES / name).read_bytes().splitlines(keepends=True)
        found.append(("csv", b"".join(lines[:MAX_LINES])))
    rows = b"".join(b"%.4f,%d\n" % (n * 0.0028, n % 50) for n in range(300))
    found += [
        ("csv", b"time,ECG (uV)\n" + rows),
        ("csv", b'"time\n[s]","ECG\n[uV]"\n' + rows),
        ("csv", b"time [s/256],ECG_I [mV]\n" + b"".join(b"%d,0.5\n" % n for n in range(300))),
        ("csv", b"1544027337.000000\n250.000000\n" + 300 * b"0.5\n"),
        ("csv", b"Interval=\t0.0028 s\nChannelTitle=\tECG\nRange=\t10 mV\n" + 300 * b"0.5\n"),
    ]
    found += [("gzip", content) for _, content in found[:1]]  # packed after it was changed
    gap = (_CASES / "edf-d-contiguous" / "d_gap.edf").read_bytes()
    return [
        *found,
        ("edf", gap),
        ("edf", (_CASES / "directory-nothing-read/plain.bdf").read_bytes()),
    ]


def _make_exports() -> dict[str, bytes]:
    """Make a small export of each device, of 12 s at 100 Hz."""
    import device_writers as write
    import numpy as np
    from fuzz_inputs import FS_HZ

    from ecg_lib.records.simulation.simulator import StripKind, simulate_strip

    strip = simulate_strip(StripKind.RUN, seed=2, duration_s=12.0, fs=FS_HZ)
    two, one = np.rint(strip.signals_mv.T * 200).astype(np.int64)
    leads, fs = {"I": one, "II": two}, round(FS_HZ)
    huffman = (19_999).to_bytes(2, "little")
    return {
        "dicom": write.write_dicom(leads, fs=fs),
        "ishne": write.write_ishne(leads, fs=fs),
        "scp": write.write_scp(leads, fs=fs, order=1),
        "scp huffman": write.write_scp(leads, fs=fs, order=2, table=huffman),
        "aecg": write.write_aecg(leads, fs=fs),
        "muse": write.write_muse(leads, fs=fs),
        "philips": write.write_philips(leads, fs=fs),
        "xli": write.pack_xli([one, two]),
        "atc": write.write_atc(leads, fs=fs, sums="none"),
    }


def _number_of(reader: str) -> int:
    return [name for name, _ in READERS].index(reader)


def read_one(data: bytes) -> str:
    """Read a case to its end; say how it was taken.

    Raises
    ------
    Exception
        Any other than our own: a finding.

    """
    from bentos.wire.problems import ProblemError
    from ecg_lib.errors import EcgError

    if not data:
        return "nothing"
    _, read = READERS[data[0] % len(READERS)]
    directory = Path(tempfile.mkdtemp(dir=_fast_directory()))
    try:
        read(data[1:], directory)
    except (EcgError, ProblemError) as error:
        return type(error).__name__
    finally:
        shutil.rmtree(directory)
    return "read"


def _fast_directory() -> str | None:
    memory = "/dev/shm"  # noqa: S108  a directory of ours is made in it
    return memory if os.access(memory, os.W_OK) else None


def _read_file(name: str, *, fs: float | None = None) -> Callable[[bytes, Path], None]:
    def read(content: bytes, directory: Path) -> None:
        path = directory / name
        path.write_bytes(content)
        _read_to_end(path, fs=fs)

    return read


def _read_to_end(path: Path, *, fs: float | None = None) -> None:
    import numpy as np

    from ecg_lib.records.files.opening import open_recording
    from ecg_lib.records.limits import MAX_ABS_MV

    opened = open_recording(path, fs=fs)
    for lead in opened.leads[:2]:
        for block in opened.blocks(lead):
            assert block.dtype == np.float32  # noqa: S101  what a reader promises
            assert not np.isinf(block).any()  # noqa: S101  what a reader promises
            assert not (np.abs(block) > 1.01 * MAX_ABS_MV).any()  # noqa: S101  what a reader promises


def _read_wfdb(content: bytes, directory: Path) -> None:
    from fuzz_inputs import valid_uploads

    for name, other in valid_uploads()[0].files:
        (directory / name).write_bytes(content if name.endswith(".hea") else other)
    _read_to_end(directory / "r.hea")


def _read_signal(header: str) -> Callable[[bytes, Path], None]:
    """Read a WFDB signal file with these bytes, for a header that stays."""

    def read(content: bytes, directory: Path) -> None:
        (directory / "s.hea").write_text(header, encoding="utf-8")
        (directory / "s.dat").write_bytes(content)
        _read_to_end(directory / "s.hea")

    return read


def _write_flac() -> bytes:
    import io

    import numpy as np
    import soundfile

    counts = np.random.default_rng(5).integers(-300, 300, (1200, 2), dtype=np.int16)
    packed = io.BytesIO()
    soundfile.write(packed, counts, 100, subtype="PCM_16", format="FLAC")
    return packed.getvalue()


def _read_mended(name: str, mend: Callable[[bytes], bytes]) -> Callable[[bytes, Path], None]:
    """Read a file whose checksum is that of its bytes, most of the time."""

    def read(content: bytes, directory: Path) -> None:
        is_mended = len(content) > 26 and binascii.crc32(content) % 8
        _read_file(name)(mend(content) if is_mended else content, directory)

    return read


def _mend_ishne(content: bytes) -> bytes:
    from device_writers import mend_ishne

    return mend_ishne(content)


def _mend_scp(content: bytes) -> bytes:
    from device_writers import mend_scp

    return mend_scp(content[:2] + len(content).to_bytes(4, "little") + content[6:])


def _read_xli(content: bytes, directory: Path) -> None:
    """Read Philips XML with these bytes as its compressed waveforms."""
    import numpy as np
    from device_writers import write_philips

    leads = {"I": np.zeros(1200, dtype=np.int64), "II": np.zeros(1200, dtype=np.int64)}
    _read_file("r.xml")(write_philips(leads, fs=100, packed=content), directory)


def _read_zip(content: bytes, directory: Path) -> None:
    from ecg_lib.records.files.archives import unpack_recording

    archive, unpacked = directory / "r.zip", directory / "unpacked"
    archive.write_bytes(content)
    unpacked.mkdir()
    unpack_recording(archive, unpacked)


def _read_zip_of(content: bytes, directory: Path) -> None:
    """Read an archive of a record with these bytes as its header, as an archiver writes it."""
    from fuzz_inputs import valid_uploads

    from ecg_lib.records.files.archives import unpacked

    with zipfile.ZipFile(directory / "r.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, other in valid_uploads()[0].files:
            archive.writestr(f"r/{name}", content if name.endswith(".hea") else other)
        archive.writestr("__MACOSX/r/._r.hea", b"")
    with unpacked(directory / "r.zip") as path:
        _read_to_end(path)


class _Here(Executor):
    """Runs what it is given at once, so that no thread hides from the fuzzer."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:  # noqa: ANN401  as Executor
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001  as an executor does
            future.set_exception(error)
        return future


def _receive(
    content: bytes, directory: Path, fields: type[BaseModel]
) -> tuple[dict[str, str], dict[str, Path]]:
    from bentos.recordings.uploads import receive_form

    async def stream() -> AsyncIterator[bytes]:
        for start in range(0, len(content), 1000):
            yield content[start : start + 1000]

    content_type = f"multipart/form-data; boundary={BOUNDARY}"
    return asyncio.run(
        receive_form(
            stream(),
            content_type=content_type,
            directory=directory,
            executor=_Here(),
            fields=fields,
        )
    )


def _read_form(content: bytes, directory: Path) -> None:
    from bentos.recordings.uploads import UploadFields, lay_out

    texts, files = _receive(content, directory, UploadFields)
    lay_out(texts, files, directory)


def _read_table(content: bytes, directory: Path) -> None:
    """Read the form by which the viewer asks for the samples of a file."""
    from bentos.recordings.tables import TableFields, read_table

    texts, files = _receive(content, directory, TableFields)
    read_table(texts, files).as_json()


def _read_packed(content: bytes, directory: Path) -> None:
    """Read a text that gzip packed, and what is left of a gzip file that was changed."""
    from ecg_lib.records.files.archives import unpacked

    packed = content if content[:2] == b"\x1f\x8b" else gzip.compress(content, 1)
    (directory / "r.csv.gz").write_bytes(packed)
    with unpacked(directory / "r.csv.gz") as path:
        _read_to_end(path)


def _read_body(media_type: str) -> Callable[[bytes, Path], None]:
    def read(content: bytes, _directory: Path) -> None:
        from bentos.wire.inputs import read_input

        query = () if media_type == "application/json" else (("sampling_rate", "100"),)
        asked = read_input(content, media_type=media_type, query=query)
        assert asked.signal_mv.ndim == 1  # noqa: S101  what a decoder promises

    return read


def _read_spool(content: bytes, _directory: Path) -> None:
    from bentos.runtime.spool import decode_row

    with contextlib.suppress(ValueError):
        decode_row(content)


def _read_feedback(content: bytes, _directory: Path) -> None:
    from bentos.wire.inputs import parse
    from bentos.wire.schemas import FeedbackRequest

    parse(FeedbackRequest, content)


READERS: Final[tuple[tuple[str, Callable[[bytes, Path], None]], ...]] = (
    ("edf", _read_file("r.edf")),
    ("csv", _read_file("r.csv")),
    ("npy file", _read_file("r.npy", fs=100.0)),
    ("wfdb header", _read_wfdb),
    ("zip", _read_zip),
    ("form", _read_form),
    ("json", _read_body("application/json")),
    ("float32", _read_body("application/octet-stream")),
    ("npy", _read_body("application/x-npy")),
    ("spool", _read_spool),
    ("feedback", _read_feedback),
    ("dicom", _read_file("r.dcm")),
    ("ishne", _read_mended("r.ecg", _mend_ishne)),
    ("scp", _read_mended("r.scp", _mend_scp)),
    ("scp huffman", _read_mended("r.scp", _mend_scp)),
    ("aecg", _read_file("r.aecg")),
    ("muse", _read_file("muse.xml")),
    ("philips", _read_file("philips.xml")),
    ("xli", _read_xli),
    ("atc", _read_file("r.atc")),
    ("zip header", _read_zip_of),
    (
        "wfdb flac",
        _read_signal("s 2 100\ns.dat 516 200 16 0 0 0 0 II\ns.dat 516 200 16 0 0 0 0 V1\n"),
    ),
    ("wfdb signal", _read_signal("s 1 100\ns.dat 212 200 12 0 0 0 0 II\n")),
    ("table form", _read_table),
    ("gzip", _read_packed),
    ("zip of text", _read_zip),
)


if __name__ == "__main__":
    sys.exit(main())
