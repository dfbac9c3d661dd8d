"""Signals of predictions that are kept for review and training, encrypted on disk.

Nothing is kept unless ``ECG_KEEP_SIGNALS`` is on, and nothing of a request without a patient: such
a signal could not be deleted when the patient asks for it, nor be assigned to a person in training.
A signal *waits* until its prediction gets a label and is deleted when none comes; those drawn for
review are kept at once. Each file is encrypted by AES-256-GCM (NIST SP 800-38D) under a key of its
own file, and bound to its patient and prediction, so that files cannot be exchanged.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecg_lib.errors import ConfigurationError, SignalStoreError
from ecg_lib.operations.keys.key_files import make_key_file, read_own_key
from ecg_lib.records.atomic_files import replacing, require_room

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_KEPT: Final = "kept"
_WAITING: Final = "waiting"
_SUFFIX: Final = ".signal"
_MAGIC: Final = b"ECGS1"
_NONCE_BYTES: Final = 12
_KEY_BYTES: Final = 32
_PATIENT: Final = re.compile(r"[0-9a-f]{64}")
_PREDICTION: Final = re.compile(r"[\w-]{1,64}")
_DTYPE: Final = np.dtype("<f4")
_ADVICE: Final = "without it the signals that are kept cannot be read"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KeptSignal:
    """The signal of a prediction."""

    prediction_id: str
    patient_key: str
    """Keyed hash of the patient's identifier."""
    created_at: datetime
    fs: float
    lead: str
    signal_mv: NDArray[np.float32]


class KeptFile(NamedTuple):
    """One signal on disk."""

    patient_key: str
    prediction_id: str
    path: Path
    written_s: float
    """Time of its file, in seconds since the epoch."""
    is_waiting: bool


class SignalCounts(NamedTuple):
    """Signals on disk."""

    kept: int
    waiting: int
    patients: int
    size_bytes: int


class SignalStore:
    """The signals below a directory.

    Parameters
    ----------
    directory : Path
    key_path : Path
        File of the key; it is made with the first signal (mode 0600), and never while there are
        signals: under another key they could not be read.

    """

    def __init__(self, directory: Path, key_path: Path) -> None:
        self._directory = directory
        self._key_path = key_path
        self._last: tuple[tuple[int, int], AESGCM] | None = None

    def _load_cipher(self) -> AESGCM:
        """Load the cipher, again when the file of its key was replaced or changed."""
        try:
            found = self._key_path.stat()
        except OSError as error:
            raise ConfigurationError(self._describe_lost(error)) from error
        stamp = (found.st_mtime_ns, found.st_ino)
        last = self._last
        if last is None or last[0] != stamp:
            last = self._last = (stamp, self._read_cipher())
        return last[1]

    def _describe_lost(self, error: OSError) -> str:
        return (
            f"the key of the kept signals must be in {self._key_path}, it cannot be read "
            f"({error.strerror}): put the file back from a copy; when it is lost, delete "
            f"{self._directory} too, {_ADVICE}"
        )

    def _read_cipher(self) -> AESGCM:
        # Imported with the first signal: a service that keeps none starts without it.
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415  see above

        try:
            text = read_own_key(self._key_path, advice=_ADVICE)
            key = bytes.fromhex(text)
        except OSError as error:
            raise ConfigurationError(self._describe_lost(error)) from error
        except ValueError as error:
            msg = (
                f"the key of the kept signals in {self._key_path} must be hexadecimal: {error}; "
                f"{_ADVICE}"
            )
            raise ConfigurationError(msg) from error
        if len(key) != _KEY_BYTES:
            msg = f"the key of the kept signals must have {_KEY_BYTES} bytes, got {len(key)}"
            raise ConfigurationError(msg)
        return AESGCM(key)

    def add(self, signal: KeptSignal, *, is_waiting: bool) -> None:
        """Write a signal.

        Raises
        ------
        ConfigurationError
            If the key cannot be used, or is missing while there are signals.
        OSError
            If the file cannot be written, or less than 1 GiB of the disk would be free.

        """
        if not self._key_path.exists() and next(self.list_files(), None) is None:
            make_key_file(self._key_path, secrets.token_hex(_KEY_BYTES))
        header = {
            "created_at": signal.created_at.isoformat(),
            "fs": signal.fs,
            "lead": signal.lead,
        }
        samples = signal.signal_mv.astype(_DTYPE).tobytes()
        content = json.dumps(header).encode() + b"\n" + samples
        name = _name(signal.patient_key, signal.prediction_id)
        path = self._path(name, is_waiting=is_waiting)
        _make(path.parent, self._directory)
        require_room(self._directory)
        with replacing(path) as draft:
            draft.touch(mode=0o600)
            draft.write_bytes(self.seal(content, name=name))

    def seal(self, content: bytes, *, name: str) -> bytes:
        """Encrypt what was made of signals under their key, bound to a name.

        Raises
        ------
        ConfigurationError
            If the key cannot be used.

        """
        nonce = os.urandom(_NONCE_BYTES)
        return _MAGIC + nonce + self._load_cipher().encrypt(nonce, content, name.encode())

    def unseal(self, sealed: bytes, *, name: str) -> bytes:
        """Decrypt what :meth:`seal` encrypted.

        Raises
        ------
        SignalStoreError
            If it was changed, or encrypted under another key or name.
        ConfigurationError
            If the key cannot be used.

        """
        content = self._decrypt(sealed, name)
        if content is None:
            msg = f"{name} cannot be opened: it was changed, or written under another key"
            raise SignalStoreError(msg)
        return content

    def keep(self, patient_key: str, prediction_id: str) -> bool:
        """Keep a signal that waits; return whether it is kept now."""
        name = _name(patient_key, prediction_id)
        kept = self._path(name, is_waiting=False)
        _make(kept.parent, self._directory)
        try:
            self._path(name, is_waiting=True).rename(kept)
        except FileNotFoundError:
            return kept.exists()
        return True

    def is_kept(self, patient_key: str, prediction_id: str) -> bool:
        """Return whether a signal is kept, and not only waits; nothing is decrypted."""
        return self._path(_name(patient_key, prediction_id), is_waiting=False).exists()

    def read(
        self, patient_key: str, prediction_id: str, *, may_wait: bool = True
    ) -> KeptSignal | None:
        """Read a signal, kept or, where it may, waiting; None when there is none.

        Raises
        ------
        SignalStoreError
            If it was changed, or encrypted under another key.
        ConfigurationError
            If the key cannot be used.

        """
        name = _name(patient_key, prediction_id)
        for is_waiting in (False, True) if may_wait else (False,):
            try:
                sealed = self._path(name, is_waiting=is_waiting).read_bytes()
            except FileNotFoundError:
                continue
            content = self._decrypt(sealed, name)
            if content is None:
                msg = (
                    f"the kept signal of prediction {prediction_id} cannot be opened: it was "
                    "changed, or written under another key"
                )
                raise SignalStoreError(msg)
            header, _, samples = content.partition(b"\n")
            fields = json.loads(header)
            return KeptSignal(
                prediction_id=prediction_id,
                patient_key=patient_key,
                created_at=datetime.fromisoformat(fields["created_at"]),
                fs=fields["fs"],
                lead=fields["lead"],
                signal_mv=np.frombuffer(samples, dtype=_DTYPE).astype(np.float32),
            )
        return None

    def _decrypt(self, sealed: bytes, name: str) -> bytes | None:
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415  as the cipher

        magic, rest = sealed[: len(_MAGIC)], sealed[len(_MAGIC) :]
        if magic != _MAGIC or len(rest) <= _NONCE_BYTES:
            return None
        try:
            return self._load_cipher().decrypt(
                rest[:_NONCE_BYTES], rest[_NONCE_BYTES:], name.encode()
            )
        except InvalidTag:
            return None

    def list_files(self) -> Iterator[KeptFile]:
        """Give all signals, in no order."""
        for state in (_KEPT, _WAITING):
            for path in (self._directory / state).glob(f"*/*{_SUFFIX}"):
                try:
                    written_s = path.stat().st_mtime
                except FileNotFoundError:
                    continue
                yield KeptFile(path.parent.name, path.stem, path, written_s, state == _WAITING)

    def count(self) -> SignalCounts:
        """Count the signals."""
        files = list(self.list_files())
        waiting = sum(file.is_waiting for file in files)
        size = sum(file.path.stat().st_size for file in files if file.path.exists())
        patients = len({file.patient_key for file in files})
        return SignalCounts(len(files) - waiting, waiting, patients, size)

    def delete_patient(self, patient_key: str) -> int:
        """Delete all signals of a patient, and return how many there were."""
        if not _PATIENT.fullmatch(patient_key):
            msg = "the hash of a patient must have 64 hexadecimal digits"
            raise ConfigurationError(msg)
        n_deleted = 0
        for state in (_KEPT, _WAITING):
            directory = self._directory / state / patient_key
            if directory.exists():
                n_deleted += sum(1 for _ in directory.glob(f"*{_SUFFIX}"))
                shutil.rmtree(directory)
        return n_deleted

    def delete(self, file: KeptFile) -> None:
        """Delete one signal, and the directory of a patient without any."""
        file.path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it has other signals
            file.path.parent.rmdir()

    def _path(self, name: str, *, is_waiting: bool) -> Path:
        return self._directory / (_WAITING if is_waiting else _KEPT) / f"{name}{_SUFFIX}"


def _name(patient_key: str, prediction_id: str) -> str:
    """Name a signal; also what its encryption is bound to."""
    if not _PATIENT.fullmatch(patient_key) or not _PREDICTION.fullmatch(prediction_id):
        msg = "a signal must be named by the hash of a patient and the id of a prediction"
        raise SignalStoreError(msg)
    return f"{patient_key}/{prediction_id}"


def _make(directory: Path, root: Path) -> None:
    """Make a directory that this user alone can read, and those between it and the root."""
    for path in (root, directory.parent, directory):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
