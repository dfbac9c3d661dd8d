"""Read XML from strangers: no entities, nothing fetched, and bounded in size, depth and memory.

Only the elements that a reader asks for keep their text and attributes, so that what a file says
about a person is not held.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from xml.etree.ElementTree import Element, ParseError, TreeBuilder

import numpy as np
from numpy.typing import NDArray

from ecg_lib.errors import CorruptRecordError, UnsupportedRecordError
from ecg_lib.records.files.devices.device_file import check_size

MAX_XML_BYTES: Final = 64 * 2**20
_MAX_ELEMENTS: Final = 200_000
_MAX_DEPTH: Final = 64
_CHUNK_BYTES: Final = 2**16
_MAX_TAG_BYTES: Final = 2**20
"""A tag, comment or declaration is held by the parser until it ends."""


class _Target:
    """Builds a tree of local names, and counts what it builds."""

    def __init__(self, kept: Mapping[str, frozenset[str]]) -> None:
        self.events = 0
        self._kept = kept
        self._names: frozenset[str] = frozenset()
        self._builder = TreeBuilder()
        self._open: list[str] = []
        self._elements = 0

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        self.events += 1
        self._elements += 1
        name = _local(tag)
        if not self._open:
            if name not in self._kept:
                msg = (
                    "an XML file must be an HL7 aECG (AnnotatedECG), GE MUSE (RestingECG) or "
                    "Philips (restingecgdata) export, this one is another"
                )
                raise UnsupportedRecordError(msg)
            self._names = self._kept[name]
        self._open.append(name)
        if self._elements > _MAX_ELEMENTS or len(self._open) > _MAX_DEPTH:
            msg = (
                f"an XML file must have at most {_MAX_ELEMENTS} elements, nested {_MAX_DEPTH} deep,"
                " this one has more"
            )
            raise CorruptRecordError(msg)
        is_kept = name in self._names
        held = {_local(key): value for key, value in attributes.items()} if is_kept else {}
        self._builder.start(name, held)

    def end(self, _tag: str) -> None:
        self.events += 1
        self._builder.end(self._open.pop())

    def data(self, text: str) -> None:
        self.events += 1
        if self._open and self._open[-1] in self._names:
            self._builder.data(text)

    def close(self) -> Element:
        return self._builder.close()


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def read_xml(path: Path, kept: Mapping[str, frozenset[str]]) -> Element:
    """Read a file into a tree whose tags and attributes have no namespaces.

    Parameters
    ----------
    path : Path
    kept : mapping
        By the name of the root, the elements that keep their text and attributes.

    Raises
    ------
    UnsupportedRecordError
        If the root is another, or the file declares entities.
    CorruptRecordError
        If it is not well formed, or too much is in it.
    RecordTooLongError
        If it is too large.

    """
    from defusedxml.common import DefusedXmlException  # noqa: PLC0415  other files need it not
    from defusedxml.ElementTree import DefusedXMLParser  # noqa: PLC0415  see above

    check_size(path, MAX_XML_BYTES, "XML")
    target = _Target(kept)
    # The exports of MUSE name a DTD, which is not fetched.
    parser = DefusedXMLParser(target=target, forbid_dtd=False)
    seen, silent_bytes = 0, 0
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                parser.feed(chunk)
                silent_bytes = silent_bytes + len(chunk) if target.events == seen else 0
                seen = target.events
                if silent_bytes > _MAX_TAG_BYTES:
                    msg = f"a tag of the XML file must have at most {_MAX_TAG_BYTES} bytes"
                    raise CorruptRecordError(msg)
        root: Element = parser.close()
    except DefusedXmlException as error:
        msg = "an XML file must not declare entities, this one does"
        raise UnsupportedRecordError(msg) from error
    except (ParseError, ValueError, LookupError, AssertionError) as error:
        msg = "the XML file must be well formed, it is cut off or damaged"
        raise CorruptRecordError(msg) from error
    return root


def text_of(parent: Element, path: str, default: str = "") -> str:
    """Return the stripped text of the first element at a path, `default` when there is none."""
    return (parent.findtext(path) or default).strip()


def decode_base64(text: str, what: str) -> bytes:
    """Decode base64 with white space in it.

    Raises
    ------
    CorruptRecordError

    """
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        msg = f"the {what} must be base64, it is not"
        raise CorruptRecordError(msg) from error


def decode_int16(text: str, what: str) -> NDArray[np.int16]:
    """Decode base64 of little-endian 16-bit samples.

    Raises
    ------
    CorruptRecordError

    """
    packed = decode_base64(text, what)
    return np.frombuffer(packed[: len(packed) // 2 * 2], dtype="<i2")
