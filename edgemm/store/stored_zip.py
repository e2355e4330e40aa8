"""Zips whose bytes are fixed by their content: members stored (not compressed) in sorted order, one fixed time, one fixed mode.

Because a name, a size and a CRC determine every other byte, a reader can demand exactly those bytes: any flipped bit in a header shows, and
a compressed member, a link, a second copy of a name or a gap between members cannot even be expressed. Zip64 fields are always used, so
that small and large files take one path.

Source: PKWARE APPNOTE.TXT 6.3.10, sections 4.3.7 (local header), 4.3.12 (central directory), 4.3.14 to 4.3.16 (ends), 4.5.3 (zip64).
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from edgemm.store.artifact import PIECE, pieces

LOCAL = struct.Struct("<IHHHHHIIIHH")
CENTRAL = struct.Struct("<IHHHHHHIIIHHHHHII")
LOCAL_SIGN, CENTRAL_SIGN = 0x04034B50, 0x02014B50
VERSION, UTF8, STORED, MIDNIGHT, NEW_YEAR_1980 = 45, 0x800, 0, 0, 0x21
UNIX, REGULAR_0644 = 3 << 8, 0o100644 << 16
IN_ZIP64 = 0xFFFFFFFF


class Damaged(Exception):
    """A zip that is not byte for byte what ``write`` would make.

    Attributes:
        member: The member whose header or content is wrong; "" where it is the archive itself.
        reason: What is wrong, in words.
    """

    def __init__(self, member: str, reason: str) -> None:
        self.member, self.reason = member, reason
        super().__init__(f"{member}: {reason}" if member else reason)


@dataclass(frozen=True)
class Member:
    """One stored file: ``start`` is the offset of its content, ``header`` that of its local header."""

    name: str
    size: int
    crc: int
    header: int
    start: int


def write(file: BinaryIO, files: Mapping[str, Path | bytes]) -> None:
    """Write a zip of ``files`` (name in the zip -> content) to ``file``, sorted by name; content on disk is read in pieces."""
    members: list[Member] = []
    offset = 0
    for name in sorted(files):
        crc = size = 0
        for piece in pieces(files[name]):
            crc, size = zlib.crc32(piece, crc), size + len(piece)
        header = _local(name, size, crc)
        members.append(Member(name, size, crc, offset, offset + len(header)))
        file.write(header)
        for piece in pieces(files[name]):
            file.write(piece)
        offset += len(header) + size
    file.write(b"".join(_central(member) for member in members) + _end(members, offset))


def members(file: BinaryIO) -> list[Member]:
    """The members of a zip that ``write`` made, in order; the content itself is not read.

    Raises:
        Damaged: Some byte of a header or of the directory is not what it has to be.
    """
    members: list[Member] = []
    end = file.seek(0, io.SEEK_END)
    offset = 0
    while True:
        file.seek(offset)
        head = file.read(LOCAL.size)
        if len(head) == LOCAL.size and LOCAL.unpack(head)[0] == LOCAL_SIGN:
            members.append(_member(file, head, offset, end, members[-1].name if members else ""))
            offset = members[-1].start + members[-1].size
            continue
        _check_directory(file, offset, members)
        return members


def content(file: BinaryIO, member: Member) -> Iterator[bytes]:
    """The content of a member in pieces.

    Raises:
        Damaged: After the last piece, when the content does not have the member's CRC.
    """
    file.seek(member.start)
    crc, left = 0, member.size
    while left:
        piece = file.read(min(PIECE, left))
        if not piece:
            raise Damaged(member.name, "ends too early.")
        crc, left = zlib.crc32(piece, crc), left - len(piece)
        yield piece
    if crc != member.crc:
        raise Damaged(member.name, "its content does not have the CRC its header states.")


def npz_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """An ``.npz`` for ``np.load(..., allow_pickle=False)``: the same arrays give the same bytes on every machine."""
    plain: dict[str, Path | bytes] = {}
    for name, array in arrays.items():
        file = io.BytesIO()
        np.lib.format.write_array(file, np.ascontiguousarray(array) if np.ndim(array) else np.asarray(array), (1, 0), allow_pickle=False)
        plain[f"{name}.npy"] = file.getvalue()
    whole = io.BytesIO()
    write(whole, plain)
    return whole.getvalue()


def is_safe(name: str) -> bool:
    """Whether ``name`` is a plain relative path with forward slashes that stays below its folder, as people can read it."""
    parts = name.split("/")
    return bool(name) and name.isprintable() and not any(part in ("", ".", "..") or "\\" in part or ":" in part for part in parts)


def _local(name: str, size: int, crc: int) -> bytes:
    raw = name.encode()
    head = LOCAL.pack(LOCAL_SIGN, VERSION, UTF8, STORED, MIDNIGHT, NEW_YEAR_1980, crc, IN_ZIP64, IN_ZIP64, len(raw), 20)
    return head + raw + struct.pack("<HHQQ", 1, 16, size, size)


def _central(member: Member) -> bytes:
    raw = member.name.encode()
    fixed = (UNIX | VERSION, VERSION, UTF8, STORED, MIDNIGHT, NEW_YEAR_1980, member.crc, IN_ZIP64, IN_ZIP64)
    head = CENTRAL.pack(CENTRAL_SIGN, *fixed, len(raw), 28, 0, 0, 0, REGULAR_0644, IN_ZIP64)
    return head + raw + struct.pack("<HHQQQ", 1, 24, member.size, member.size, member.header)


def _end(members: list[Member], offset: int) -> bytes:
    size = sum(len(_central(member)) for member in members)
    count = len(members)
    zip64 = struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, VERSION, VERSION, 0, 0, count, count, size, offset)
    locator = struct.pack("<IIQI", 0x07064B50, 0, offset + size, 1)
    return zip64 + locator + struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 0xFFFF, 0xFFFF, IN_ZIP64, IN_ZIP64, 0)


def _member(file: BinaryIO, head: bytes, offset: int, end: int, last: str) -> Member:
    fields = LOCAL.unpack(head)
    rest = file.read(fields[9] + fields[10])
    raw = rest[: fields[9]]
    try:
        name = raw.decode()
    except UnicodeDecodeError as err:
        raise Damaged(repr(raw), "its name is not UTF-8.") from err
    if not is_safe(name):
        raise Damaged(name, "its name leads out of the archive or cannot be read.")
    if name <= last:
        raise Damaged(name, f"it stands after '{last}'; members are sorted and stand there once.")
    if fields[3] != STORED:
        raise Damaged(name, "it is compressed; here members are only stored.")
    size = struct.unpack("<Q", rest[fields[9] + 4 : fields[9] + 12])[0] if len(rest) >= fields[9] + 20 else -1
    header = _local(name, max(size, 0), fields[6])
    if size < 0 or head + rest != header:
        raise Damaged(name, "its header is not the one edgemm writes.")
    if offset + len(header) + size > end:
        raise Damaged(name, f"its header states {size} bytes, more than the file has.")
    return Member(name, size, fields[6], offset, offset + len(header))


def _check_directory(file: BinaryIO, offset: int, members: list[Member]) -> None:
    file.seek(offset)
    for member in members:
        want = _central(member)
        if file.read(len(want)) != want:
            raise Damaged(member.name, "its header and its entry in the archive's directory differ.")
    end = _end(members, offset)
    if not members or file.read(len(end) + 1) != end:
        raise Damaged("", "the archive's end is not the one edgemm writes: cut off, or changed.")
