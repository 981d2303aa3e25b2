"""Reads the head of a GGUF file: what a model is, without its weights.

A file, or a member that is stored in a llamafile, is read forwards and in small pieces. Whatever
its numbers claim, no more is read than :data:`LONGEST_HEAD`, and nothing is kept but short values.

The format: ggml's ``docs/gguf.md``. All numbers are little-endian, or big-endian where the version
says so; a string is a length in 64 bits and its bytes.

    head     "GGUF", u32 version, u64 tensors, u64 pairs (version 1: u32 each)
    pair     string key, u32 kind, value
    array    u32 kind, u64 count, values
    tensor   string name, u32 dimensions, u64 each of them, u32 type, u64 offset
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

from llamabuild.advise.facts import Type, type_of
from llamabuild.errors import SourceError, UsageError

__all__ = ["LONGEST_HEAD", "Model", "Tensor", "Words", "read_model"]

#: Bytes. The largest vocabularies take some 20 MB.
LONGEST_HEAD = 256 << 20
#: Real models have tens of pairs and thousands of tensors, and vocabularies below a million words.
MOST_PAIRS, MOST_TENSORS, MOST_WORDS = 1 << 16, 1 << 17, 1 << 22
LONGEST_KEY, LONGEST_TEXT, MOST_KEPT = 1 << 16, 1 << 12, 1 << 12
MOST_DIMENSIONS = 4
MOST_WEIGHTS = 1 << 48

_MAGIC = b"GGUF"
_OLD_MAGICS = (b"lmgg", b"fmgg", b"tjgg", b"algg")  # ggml, ggmf, ggjt, ggla
_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "B",
    10: "Q",
    11: "q",
    12: "d",
}


@dataclass(frozen=True)
class Words:
    """What is kept of a list of strings: how many there are."""

    count: int


@dataclass(frozen=True)
class Tensor:
    """Some of a model's weights. ``kind`` is none where the type is not known here."""

    name: str
    weights: int
    kind: Type | None

    @property
    def size_bytes(self) -> int:
        """0 where the type is not known."""
        return self.kind.size(self.weights) if self.kind else 0

    @property
    def layer(self) -> int | None:
        """3 for ``blk.3.attn_q.weight``."""
        parts = self.name.split(".", 2)
        return int(parts[1]) if parts[0] == "blk" and parts[1:] and parts[1].isdecimal() else None


@dataclass(frozen=True)
class Model:
    """A model's head.

    :param member: its name inside a llamafile; "" for a file of its own.
    :param values: the short values by key; none for a list that is too long to be kept.
    :param notes: what a user should hear about the file.
    """

    path: Path
    member: str
    values: Mapping[str, Any]
    tensors: tuple[Tensor, ...]
    notes: tuple[str, ...] = ()


class _Damaged(Exception):
    """The head contradicts itself, or ends too early."""


def read_model(path: Path) -> Model:
    """Read the head of a GGUF file, or of the model in a llamafile.

    :raises UsageError: there is no such file, or it cannot be read.
    :raises SourceError: it is no model, damaged, or cut off.
    """
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise UsageError(f"{path} {what}", hint="name a model: a .gguf file or a llamafile")
    try:
        with path.open("rb") as file:
            member, begin, size = _locate(path, file)
            file.seek(begin)
            values, tensors, notes = _Reader(file, size).read()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error
    except _Damaged as error:
        name = f"{member} in {path}" if member else str(path)
        raise SourceError(
            f"{name} is damaged: {error}",
            hint="get the file again, and compare its size or checksum with the original's",
        ) from error
    if not tensors:
        raise SourceError(
            f"{path} holds no weights: it is a vocabulary",
            hint="name the file of the language model",
        )
    return Model(path, member, values, tensors, notes)


def _locate(path: Path, file: IO[bytes]) -> tuple[str, int, int]:
    """Where the model is: its name inside of the file, if any, its first byte and its size."""
    start = file.read(4)
    if start == _MAGIC:
        return "", 0, path.stat().st_size
    if start in _OLD_MAGICS:
        raise SourceError(
            f"{path} is a model from before August 2023, which no present program reads",
            hint="convert it to GGUF, or get a newer file of the model",
        )
    return _member(path, file)


def _member(path: Path, file: IO[bytes]) -> tuple[str, int, int]:
    from zipfile import ZIP_STORED

    from llamabuild.source import archive

    if archive.kind(path) != "zip":
        raise SourceError(
            f"{path} is neither a GGUF file nor a llamafile",
            hint="name a model: a .gguf file or a llamafile; one that was cut off has lost its "
            "directory",
        )
    with archive.open_zip(path) as opened:
        found = [info for info in archive.members(opened) if info.filename.endswith(".gguf")]
        # The other one of two is the projector of a model with eyes.
        info = max(found, key=lambda info: info.file_size, default=None)
    if info is None:
        raise SourceError(f"{path} has no model inside", hint="name the model: a .gguf file")
    if info.compress_type != ZIP_STORED or info.flag_bits & 1:
        raise SourceError(
            f"{info.filename} in {path} is compressed or encrypted, so no program can map it",
            hint="put it in with llamafile's zipalign -j0",
        )
    file.seek(info.header_offset)
    head = file.read(30)
    if len(head) < 30 or head[:4] != b"PK\3\4":
        raise SourceError(
            f"{path}: the directory of the ZIP is wrong about {info.filename}",
            hint="get the file again, and compare its size or checksum with the original's",
        )
    begin = info.header_offset + 30 + sum(struct.unpack_from("<HH", head, 26))
    return info.filename, begin, min(info.file_size, path.stat().st_size - begin)


class _Reader:
    """Reads forwards from where ``file`` stands, never beyond ``size`` bytes."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._size = size
        self._at = 0
        self._order = "<"

    def read(self) -> tuple[dict[str, Any], tuple[Tensor, ...], tuple[str, ...]]:
        if self._take(4) != _MAGIC:
            raise _Damaged("it does not begin with GGUF")
        version = self._number("I")
        if version & 0xFFFF == 0:
            self._order = ">"
            version = int.from_bytes(version.to_bytes(4, "little"), "big")
        if not 1 <= version <= 3:
            raise _Damaged(f"its version is {version}, and 1 to 3 are known")
        wide = "I" if version == 1 else "Q"
        tensors = self._count(wide, MOST_TENSORS, "tensors")
        pairs = self._count(wide, MOST_PAIRS, "values")
        values: dict[str, Any] = {}
        for _ in range(pairs):
            key = self._text(wide, LONGEST_KEY, "a key")
            if key in values:
                raise _Damaged(f"it says {key!r} twice")
            values[key] = self._value(wide)
        rows = [self._tensor(wide) for _ in range(tensors)]
        self._whole(values, rows)
        return values, tuple(tensor for tensor, _ in rows), tuple(_notes(values, rows))

    def _whole(self, values: Mapping[str, Any], rows: list[tuple[Tensor, int]]) -> None:
        """Notice weights that are not there any more."""
        alignment = values.get("general.alignment", 32)
        if type(alignment) is not int or not 0 < alignment <= 1 << 20:
            raise _Damaged(f"its alignment is {alignment!r}")
        begin = -(-self._at // alignment) * alignment
        ends = [begin + offset + tensor.size_bytes for tensor, offset in rows]
        end = max(ends, default=0)
        if end > self._size:
            raise _Damaged(f"it is cut off: it has {self._size:,} of {end:,} bytes")

    def _tensor(self, wide: str) -> tuple[Tensor, int]:
        name = self._text(wide, LONGEST_KEY, "a tensor's name")
        dimensions = self._count("I", MOST_DIMENSIONS, f"dimensions of {name!r}")
        weights = 1
        for _ in range(dimensions):
            weights *= self._number(wide)
        if weights > MOST_WEIGHTS:
            raise _Damaged(f"{name!r} claims {weights:,} weights")
        kind = self._number("I")
        return Tensor(name, weights, type_of(kind)), self._number("Q")

    def _value(self, wide: str) -> Any:
        kind = self._number("I")
        if kind == _STRING:
            return self._text(wide, None, "a value")
        if kind == _ARRAY:
            return self._array(wide)
        return self._scalar(kind)

    def _array(self, wide: str) -> Any:
        kind = self._number("I")
        count = self._count(wide, MOST_WORDS, "values in a list")
        if kind == _STRING:
            for _ in range(count):
                self._skip(self._number(wide))
            return Words(count)
        if kind not in _SCALARS:
            raise _Damaged(f"a list holds values of kind {kind}")
        if count > MOST_KEPT:
            self._skip(count * struct.calcsize(_SCALARS[kind]))
            return None
        return tuple(self._scalar(kind) for _ in range(count))

    def _scalar(self, kind: int) -> int | float | bool:
        if kind not in _SCALARS:
            raise _Damaged(f"a value is of kind {kind}")
        value = self._number(_SCALARS[kind])
        return bool(value) if kind == _BOOL else value

    def _text(self, wide: str, longest: int | None, what: str) -> str:
        """A string; without a limit, a long one is passed over and only its beginning kept."""
        length = self._number(wide)
        if longest is not None and length > longest:
            self._absurd(f"{what} of {length:,} bytes")
        kept = min(length, LONGEST_TEXT if longest is None else length)
        text = self._take(kept).decode("utf-8", "replace")
        self._skip(length - kept)
        return text

    def _count(self, kind: str, most: int, what: str) -> int:
        number = self._number(kind)
        if number > most:
            self._absurd(f"{number:,} {what}")
        return int(number)

    def _absurd(self, what: str) -> NoReturn:
        raise _Damaged(f"it claims {what}, which no model has")

    def _number(self, kind: str) -> Any:
        kind = self._order + kind
        return struct.unpack(kind, self._take(struct.calcsize(kind)))[0]

    def _take(self, count: int) -> bytes:
        self._pass(count)
        data = self._file.read(count)
        if len(data) != count:
            raise _Damaged("it is cut off within its head")
        return data

    def _skip(self, count: int) -> None:
        self._pass(count)
        self._file.seek(count, 1)

    def _pass(self, count: int) -> None:
        self._at += count
        if self._at > self._size:
            raise _Damaged("it is cut off within its head")
        if self._at > LONGEST_HEAD:
            self._absurd(f"a head of more than {LONGEST_HEAD:,} bytes")


def _notes(values: Mapping[str, Any], rows: list[tuple[Tensor, int]]) -> list[str]:
    notes = []
    parts = values.get("split.count", 1)
    if type(parts) is int and parts > 1:
        notes.append(f"this is one of {parts} parts, and the others are not counted")
    strange = sum(tensor.kind is None for tensor, _ in rows)
    if strange:
        notes.append(f"{strange} tensors are of types that are not known here, and not counted")
    return notes
