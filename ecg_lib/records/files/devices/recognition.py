"""Recognise the exports of ECG devices by their content, whatever their names are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from ecg_lib.errors import CorruptRecordError, UnsupportedRecordError
from ecg_lib.records.files.devices import dicom, ishne, kardia_atc, scp_ecg
from ecg_lib.records.files.devices.device_file import DeviceFile
from ecg_lib.records.files.devices.xml_exports import ge_muse, hl7_aecg, philips_xml
from ecg_lib.records.files.devices.xml_exports.xml_tree import read_xml

DEVICE_SUFFIXES: Final = (".dcm", ".dicom", ".ecg", ".ishne", ".scp", ".xml", ".aecg", ".atc")

_START_BYTES: Final = 256
_XML_STARTS: Final = tuple("<".encode(encoding) for encoding in ("utf-8", "utf-16-le", "utf-16-be"))
_BYTE_ORDER_MARKS: Final = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
_READERS: Final = {
    hl7_aecg.ROOT: hl7_aecg.read_aecg,
    ge_muse.ROOT: ge_muse.read_muse,
    philips_xml.ROOT: philips_xml.read_philips,
}
_BINARY: Final = (
    (dicom.MAGIC_AT, dicom.MAGIC, dicom.read_dicom),
    (0, ishne.MAGIC, ishne.read_ishne),
    (0, kardia_atc.MAGIC, kardia_atc.read_atc),
    (scp_ecg.MARK_AT, scp_ecg.MARK, scp_ecg.read_scp),
)
_KEPT: Final = {
    hl7_aecg.ROOT: hl7_aecg.KEPT,
    ge_muse.ROOT: ge_muse.KEPT,
    philips_xml.ROOT: philips_xml.KEPT,
}


def open_device_file(path: Path) -> DeviceFile | None:
    """Open what a device exported; None when neither content nor name is that of an export.

    Raises
    ------
    RecordError
        If it is an export that cannot be read, or its name says so and its content does not.

    """
    with path.open("rb") as file:
        start = file.read(_START_BYTES)
    for at, magic, read in _BINARY:
        if start.startswith(magic, at):
            return read(path)
    if path.suffix.lower() == ".scp":
        return scp_ecg.read_scp(path)
    if _is_xml(start):
        root = read_xml(path, _KEPT)
        return _READERS[root.tag](root)
    if path.suffix.lower() in DEVICE_SUFFIXES:
        msg = (
            f"a {path.suffix.lower()} file must be DICOM, ISHNE, SCP-ECG, ATC or XML by its "
            "content, this one is none of them"
        )
        raise CorruptRecordError(msg) if not start else UnsupportedRecordError(msg)
    return None


def is_export(start: bytes) -> bool:
    """Return whether a file begins as an export: by its magic number or the root of its XML."""
    if any(start.startswith(magic, at) for at, magic, _ in _BINARY):
        return True
    plain = start.replace(b"\x00", b"")  # UTF-16
    tags = (re.escape(root.rpartition("}")[2]).encode() for root in _READERS)
    return _is_xml(start) and any(
        re.search(rb"<(?:\w{1,32}:)?" + tag + rb"[\s>]", plain) for tag in tags
    )


def _is_xml(start: bytes) -> bool:
    for mark in _BYTE_ORDER_MARKS:
        start = start.removeprefix(mark)
    return start.lstrip(b" \t\r\n").startswith(_XML_STARTS)
