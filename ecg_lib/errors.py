"""The errors that this library raises on purpose.

::

    EcgError
    ├── InvalidSignalError        a signal that cannot be analysed (also ValueError)
    │   ├── SignalTooShortError   fewer seconds than the analysis needs
    │   ├── NonFiniteSignalError  NaN or infinity among the samples
    │   └── UnreadableSignalError flat, clipped or noise from end to end
    ├── InvalidSamplingRateError  a sampling rate out of range (also ValueError)
    ├── RecordError               a record that cannot be read
    │   ├── RecordNotFoundError   a file of the record is missing (also FileNotFoundError)
    │   ├── CorruptRecordError    a checksum, a length or the format is wrong
    │   ├── UnsupportedRecordError  a kind of file or of encoding that is not read here
    │   ├── MissingDetailError    something the file does not state and nobody has said
    │   └── RecordTooLongError    more hours than the analysis takes
    ├── UnknownLeadError          the record has no lead of that name (also LookupError)
    ├── DatasetError              a dataset that cannot be built, found or trusted
    ├── BundleError               a bundle that cannot be loaded
    │   └── BundleIntegrityError  a file of the bundle does not have the hash of its manifest
    ├── PredictionLogError        the monitoring database cannot be read
    ├── KernelError               the compiled kernels cannot be loaded
    ├── SignalStoreError          a kept signal cannot be opened
    └── ConfigurationError        a setting that cannot be used
"""

from __future__ import annotations


class EcgError(Exception):
    """Base of every error that this library raises on purpose."""


class InvalidSignalError(EcgError, ValueError):
    """The signal cannot be analysed."""


class SignalTooShortError(InvalidSignalError):
    """The signal has fewer seconds than the analysis needs."""


class NonFiniteSignalError(InvalidSignalError):
    """There is NaN or infinity among the samples."""


class UnreadableSignalError(InvalidSignalError):
    """Too little of the signal can be read: it is flat, clipped, or noise without ECG."""


class InvalidSamplingRateError(EcgError, ValueError):
    """The sampling rate is out of range."""


class RecordError(EcgError):
    """The record cannot be read."""


class RecordNotFoundError(RecordError, FileNotFoundError):
    """A file that belongs to the record is missing."""


class CorruptRecordError(RecordError):
    """A checksum, a length or the format of a file of the record is wrong."""


class UnsupportedRecordError(RecordError):
    """The kind of the file, or how its samples are encoded, is not read here."""


class MissingDetailError(RecordError):
    """The file does not state something that must be known, and nobody has said it."""

    def __init__(self, message: str, *, detail: str, found_hz: float | None = None) -> None:
        super().__init__(message)
        self.detail = detail
        """``sampling_rate`` or ``unit``."""
        self.found_hz = found_hz
        """The approximate rate that time stamps give, which the caller must confirm."""


class RecordTooLongError(RecordError):
    """The record has more hours than the analysis takes."""


class UnknownLeadError(EcgError, LookupError):
    """The record has no lead of that name."""


class DatasetError(EcgError):
    """The dataset cannot be built, found or trusted."""


class BundleError(EcgError):
    """The bundle cannot be loaded."""


class BundleIntegrityError(BundleError):
    """A file of the bundle does not have the hash that its manifest states."""


class PredictionLogError(EcgError):
    """The monitoring database cannot be read."""


class SignalStoreError(EcgError):
    """A signal that is kept was changed, or encrypted under another key."""


class ConfigurationError(EcgError):
    """A setting cannot be used as it is."""


class KernelError(EcgError):
    """The compiled kernels of the signal path cannot be loaded."""
