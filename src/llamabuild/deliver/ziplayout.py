"""How a ZIP lies in its file: what is read of a llamafile, and what is written behind it.

The layout that llamafile's own zipalign gives (tag 0.9.3): members are stored as they are, their
contents begin at a multiple of 64 KiB so that every system can map them, sizes and places are
always given in ZIP64 form, the date is fixed, and every offset counts from the start of the file,
program included. The format itself is PKWARE's APPNOTE 6.3.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from llamabuild.errors import DeliveryError

__all__ = [
    "Layout",
    "Member",
    "directory_entry",
    "end_records",
    "local_header",
    "padding",
    "read_at",
    "read_layout",
]

#: Contents of a member begin at a multiple of this.
ALIGNMENT = 65536

_LOCAL = struct.Struct("<4s5H3I2H")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")
_END = struct.Struct("<4s4H2IH")
_LOCAL_MAGIC, _ENTRY_MAGIC = b"PK\3\4", b"PK\1\2"
_END64_MAGIC, _LOCATOR_MAGIC, _END_MAGIC = b"PK\6\6", b"PK\6\7", b"PK\5\6"

#: llamafile looks for the end of the directory in so many last bytes of a file, and no further.
_WINDOW = 65536
#: A directory longer than this (bytes) is none: a llamafile's takes about 100 for each member.
_LONGEST_DIRECTORY = 64 << 20
_MARK16, _MARK32 = 0xFFFF, 0xFFFFFFFF  # "see the ZIP64 field"
_ZIP64 = 1  # the extra field's number
_VERSION = 45  # of the format: the first with ZIP64
#: No file is so long, and no system seeks so far.
_NOWHERE = 1 << 62
_UNIX = 3 << 8
_UTF8 = 0x800
_ENCRYPTED = 1
_STORED = 0
#: 14 November 2023, 22:13:20: second 1,700,000,000, the fixed date of zipalign.
_DOS_TIME, _DOS_DATE = 22 << 11 | 13 << 5 | 20 >> 1, (2023 - 1980) << 9 | 11 << 5 | 14
#: A plain file that everybody may read and run.
_MODE = 0o100755

_CUT_OFF = "if it is a download, get it again and compare its size with the original's"


@dataclass(frozen=True)
class Member:
    """One file in a ZIP. ``record`` is its entry in the directory, as it stands there.

    ``offset`` is where its header begins, ``start`` and ``end`` bound its contents.
    """

    name: str
    offset: int
    start: int
    end: int
    size_bytes: int
    crc32: int
    method: int
    encrypted: bool
    record: bytes

    @property
    def stored(self) -> bool:
        """Whether the contents lie in the file as they are."""
        return self.method == _STORED and not self.encrypted

    @property
    def aligned(self) -> bool:
        """Whether it lies as zipalign would have put it."""
        return self.stored and self.start % ALIGNMENT == 0


@dataclass(frozen=True)
class Layout:
    """Where the parts of a ZIP lie in a file of ``size`` bytes.

    The directory begins at ``directory``; its end records, ``comment`` included, at ``tail`` and
    end at ``end``. Both are followed by nothing in most files.
    """

    members: tuple[Member, ...]
    directory: int
    tail: int
    end: int
    size: int
    comment: bytes

    @property
    def replaceable(self) -> int:
        """Where a new directory may begin: at the old one, if nothing else is behind it."""
        return self.directory if self.end == self.size else self.size


@dataclass(frozen=True)
class _End:
    """What the records at the end of a ZIP say; ``tail`` is where they begin."""

    directory: int
    length: int
    count: int
    tail: int
    end: int
    comment: bytes


class _Bad(Exception):
    """These bytes are not what they should be."""


def read_layout(file: FileIO, path: Path) -> Layout:
    """Read the directory of a ZIP, or of a program with a ZIP behind it.

    :param file: unbuffered, since it is read in many places.
    :raises DeliveryError: there is none, it is damaged, or llamafile could not read it.
    """
    size = file.seek(0, 2)
    try:
        end = _find_end(file, size)
        records = _entries(read_at(file, end.directory, end.length), end.count)
        members = tuple(_member(file, record, end.directory) for record in records)
    except _Bad as error:
        raise DeliveryError(f"{path} cannot be used: {error}", hint=_CUT_OFF) from error
    return Layout(members, end.directory, end.tail, end.end, size, end.comment)


def read_at(file: FileIO, offset: int, length: int) -> bytes:
    """Return ``length`` bytes, fewer only at the end of the file."""
    if offset >= _NOWHERE:
        return b""
    file.seek(offset)
    data = bytearray()
    while len(data) < length and (more := file.read(length - len(data))):
        data += more
    return bytes(data)


def padding(position: int, name: str) -> int:
    """How many bytes to leave free at ``position`` so that the new member's contents align."""
    return -(position + len(local_header(name, 0, 0))) % ALIGNMENT


def local_header(name: str, size: int, crc32: int) -> bytes:
    """What stands before the contents of a stored member."""
    raw = name.encode()
    extra = struct.pack("<2H2Q", _ZIP64, 16, size, size)
    lengths = (_MARK32, _MARK32, len(raw), len(extra))
    fields = (_VERSION, _UTF8, _STORED, _DOS_TIME, _DOS_DATE, crc32, *lengths)
    return _LOCAL.pack(_LOCAL_MAGIC, *fields) + raw + extra


def directory_entry(name: str, size: int, crc32: int, offset: int) -> bytes:
    """What the directory says of a stored member whose header is at ``offset``."""
    raw = name.encode()
    extra = struct.pack("<2H3Q", _ZIP64, 24, size, size, offset)
    fields = (_UNIX | _VERSION, _VERSION, _UTF8, _STORED, _DOS_TIME, _DOS_DATE, crc32)
    lengths = (_MARK32, _MARK32, len(raw), len(extra), 0)
    return _ENTRY.pack(_ENTRY_MAGIC, *fields, *lengths, 0, 0, _MODE << 16, _MARK32) + raw + extra


def end_records(count: int, length: int, directory: int, comment: bytes) -> bytes:
    """What follows a directory of ``count`` entries and ``length`` bytes at ``directory``."""
    few = min(count, _MARK16)
    end64 = (_END64.size - 12, _UNIX | _VERSION, _VERSION, 0, 0, count, count, length, directory)
    end = (0, 0, few, few, min(length, _MARK32), _MARK32, len(comment))
    return (
        _END64.pack(_END64_MAGIC, *end64)
        + _LOCATOR.pack(_LOCATOR_MAGIC, 0, directory + length, 1)
        + _END.pack(_END_MAGIC, *end)
        + comment
    )


def _find_end(file: FileIO, size: int) -> _End:
    """The last end record that leads to a directory, as llamafile searches it."""
    base = max(size - _WINDOW, 0)
    window = read_at(file, base, _WINDOW)
    reason = ""
    position = window.rfind(_END_MAGIC)
    while position >= 0:
        try:
            return _read_end(file, window[position:], base + position)
        except _Bad as error:
            reason = reason or str(error)
        position = window.rfind(_END_MAGIC, 0, position)
    raise _Bad(reason or "there is no ZIP directory at its end: it is no llamafile, or was cut off")


def _read_end(file: FileIO, data: bytes, position: int) -> _End:
    if len(data) < _END.size:
        raise _Bad("it ends in the middle of its ZIP directory")
    _, disk, start_disk, here, count, length, directory, comment = _END.unpack_from(data)
    if _END.size + comment > len(data):
        raise _Bad("it ends in the middle of its ZIP directory")
    tail = position
    locator = read_at(file, max(position - _LOCATOR.size, 0), _LOCATOR.size)
    if locator.startswith(_LOCATOR_MAGIC):
        _, end_disk, tail, disks = _LOCATOR.unpack(locator)
        record = read_at(file, tail, _END64.size)
        if end_disk or disks > 1 or len(record) < _END64.size or record[:4] != _END64_MAGIC:
            raise _Bad("the ZIP64 record at its end is damaged")
        place = directory
        *_, disk, start_disk, here, count, length, directory = _END64.unpack(record)
        if place not in {_MARK32, directory}:  # llamafile believes the older record
            raise _Bad("the two records at its end disagree")
    if disk or start_disk or here != count:
        raise _Bad("its ZIP is a part of several, which llamafile does not read")
    _check_directory(file, directory, length, tail)
    text = data[_END.size : _END.size + comment]
    return _End(directory, length, count, tail, position + _END.size + comment, text)


def _check_directory(file: FileIO, directory: int, length: int, tail: int) -> None:
    """Refuse a directory that is not just before the end records, from ``tail`` on."""
    if length > _LONGEST_DIRECTORY:
        raise _Bad(f"its ZIP directory claims {length:,} bytes")
    if directory + length == tail and read_at(file, directory, 4) == _ENTRY_MAGIC:
        return
    if length <= tail and read_at(file, tail - length, 4) == _ENTRY_MAGIC:
        raise _Bad("its ZIP directory does not count from the start of the file")
    raise _Bad("its ZIP directory is not where its end says")


def _entries(directory: bytes, count: int) -> Iterator[bytes]:
    position = 0
    for _ in range(count):
        if directory[position : position + 4] != _ENTRY_MAGIC:
            raise _Bad("its ZIP directory is damaged")
        if position + _ENTRY.size > len(directory):
            raise _Bad("its ZIP directory is damaged")
        name, extra, comment = struct.unpack_from("<3H", directory, position + 28)
        end = position + _ENTRY.size + name + extra + comment
        if end > len(directory):
            raise _Bad("its ZIP directory is damaged")
        yield directory[position:end]
        position = end
    if position != len(directory):
        raise _Bad("its ZIP directory has other entries than it counts")


def _member(file: FileIO, record: bytes, directory: int) -> Member:
    """Read one entry, and the header that it leads to."""
    fields = _ENTRY.unpack_from(record)
    _, _, _, flags, method, _, _, crc32, packed, size, name_length, extra_length = fields[:12]
    disk, offset = fields[13], fields[16]
    raw = record[_ENTRY.size : _ENTRY.size + name_length]
    name = raw.decode("utf-8", "surrogateescape")
    extra = record[_ENTRY.size + name_length :][:extra_length]
    size, packed, offset = _whole(extra, (size, packed, offset), name)
    if disk not in (0, _MARK16):
        raise _Bad(f"its member {name!r} is on another disk")
    header = read_at(file, offset, _LOCAL.size + name_length)
    if len(header) < _LOCAL.size or not header.startswith(_LOCAL_MAGIC):
        raise _Bad(f"its member {name!r} is not where the ZIP directory says")
    *_, local_name, local_extra = _LOCAL.unpack_from(header)
    if header[_LOCAL.size :] != raw or local_name != name_length:
        raise _Bad(f"its member {name!r} has another name in its own header")
    start = offset + _LOCAL.size + local_name + local_extra
    if start + packed > directory:
        raise _Bad(f"its member {name!r} reaches into the ZIP directory")
    encrypted = bool(flags & _ENCRYPTED)
    if method == _STORED and not encrypted and size != packed:
        raise _Bad(f"its member {name!r} states two sizes")
    return Member(name, offset, start, start + packed, size, crc32, method, encrypted, record)


def _whole(extra: bytes, values: tuple[int, int, int], name: str) -> list[int]:
    """Replace marks by what the ZIP64 field says, which has only those, in this order."""
    field = _zip64(extra)
    marked = sum(value == _MARK32 for value in values)
    if len(field) < 8 * marked:
        raise _Bad(f"its member {name!r} lacks its ZIP64 sizes")
    known = iter(struct.unpack_from(f"<{marked}Q", field))
    return [next(known) if value == _MARK32 else value for value in values]


def _zip64(extra: bytes) -> bytes:
    while len(extra) >= 4:
        number, length = struct.unpack_from("<2H", extra)
        if number == _ZIP64:
            return extra[4 : 4 + length]
        extra = extra[4 + length :]
    return b""
