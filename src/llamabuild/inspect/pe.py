"""The little of PE that inspection needs: sections, exported names, imported names and libraries.

The layout is Microsoft's "PE Format" page. Only 64-bit files (PE32+) carry GPU modules.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Literal, NamedTuple

from llamabuild.inspect.constants import returned_text
from llamabuild.inspect.image import LONGEST_NAME, Damaged, Image
from llamabuild.inspect.model import Linkage

__all__ = ["MAGIC", "Pe", "linkage", "parse"]

MAGIC = b"MZ"

_NEW_HEADER = struct.Struct("<60xI")
_COFF = struct.Struct("<4sHHIIIHH")
_OPTIONAL_64 = 0x20B
_DIRECTORY = struct.Struct("<II")
_SECTION = struct.Struct("<8sIIII16x")
_EXPORTS = struct.Struct("<12xIIIIIII")
_IMPORT = struct.Struct("<IIIII")
_DELAYED = struct.Struct("<IIIIIIII")
_THUNK = struct.Struct("<Q")
_WORD = struct.Struct("<I")
_HALF = struct.Struct("<H")

_EXPORT_DIRECTORY, _IMPORT_DIRECTORY, _DELAYED_DIRECTORY = 0, 1, 13
_BY_ORDINAL = 1 << 63
_MACHINES = {0x8664: "x86_64", 0xAA64: "aarch64"}

#: C++ runtimes of Microsoft, GCC and LLVM, and a name that every user of Microsoft's has inside.
_CXX_RUNTIMES = re.compile(r"(?:msvcp|vcruntime)\d+\w*\.dll|lib(?:std)?c\+\+.*\.dll", re.IGNORECASE)
_USES_CXX_RUNTIME = re.compile(rb"\.\?AVtype_info@@")

#: Far above any real library: names exported (65,535 ordinals exist), bytes of all names, where an
#: import counts for 64 more.
MOST_NAMES = 1 << 17
MOST_BYTES = 1 << 25
COST_OF_IMPORT = 64
MOST_SECTIONS = 1 << 8


class Section(NamedTuple):
    """One section. In the file a name has at most eight bytes: ``.nv_fatb`` for ``.nv_fatbin``."""

    name: str
    address: int
    offset: int
    size: int


@dataclass
class Pe:
    """A parsed header and section table over the bytes they describe."""

    image: Image
    machine: int
    sections: tuple[Section, ...]
    directories: tuple[tuple[int, int], ...]  # (address, size)
    has_symbols: bool
    budget: int = MOST_BYTES

    def spend(self, count: int) -> None:
        """Bound what following tables may cost, however they overlap.

        :raises Damaged: more than any honest file needs.
        """
        self.budget -= count
        if self.budget < 0:
            raise Damaged("its tables of names are beyond any use")

    def find(self, name: str) -> memoryview:
        """The bytes of the first section of that name (cut short in the file); empty if none."""
        for section in self.sections:
            if section.name == name[:8]:
                return self.image.cut(section.offset, section.size)
        return memoryview(b"")

    def at(self, address: int) -> int:
        """Where in the file the byte of that virtual address lies.

        :raises Damaged: in no section.
        """
        for section in self.sections:
            if section.address <= address < section.address + section.size:
                return section.offset + address - section.address
        raise Damaged(f"address {address:#x} lies in none of its sections")

    def name(self, address: int) -> str:
        """The zero-terminated text at a virtual address.

        :raises Damaged: it has no end, or all names together are beyond any use.
        """
        start = self.at(address)
        text = bytes(self.image.data[start : start + LONGEST_NAME])
        end = text.find(b"\0")
        if end < 0:
            raise Damaged("a name has no end")
        self.spend(end)
        return text[:end].decode("ascii", "replace")

    def loaded(self, address: int, size: int) -> bytes:
        """At most ``size`` bytes that lie at a virtual address.

        :raises Damaged: in no section.
        """
        start = self.at(address)
        return bytes(self.image.data[start : start + size])

    def directory(self, index: int) -> int:
        """The address of one of the tables that the header lists; 0 where it has none."""
        return self.directories[index][0] if index < len(self.directories) else 0


def parse(image: Image) -> Pe:
    """Read the headers of a 64-bit PE file.

    :raises Damaged: it is of another kind, or its tables lie outside the file.
    """
    (start,) = image.unpack(_NEW_HEADER, 0)
    magic, machine, number, _, symbols, _, optional, _ = image.unpack(_COFF, start)
    if magic != b"PE\0\0":
        raise Damaged("it begins as a program for DOS does, but no PE header follows")
    header = Image(image.cut(start + _COFF.size, optional))
    if header.unpack(struct.Struct("<H"), 0)[0] != _OPTIONAL_64:
        raise Damaged("it is a 32-bit PE file; every GPU module is 64-bit")
    if number > MOST_SECTIONS:
        raise Damaged(f"a table of {number} sections")
    (tables,) = header.unpack(_WORD, 108)
    directories = tuple(
        header.unpack(_DIRECTORY, 112 + index * _DIRECTORY.size) for index in range(min(tables, 16))
    )
    rows = image.cut(start + _COFF.size + optional, number * _SECTION.size)
    sections = tuple(
        # What is longer in memory than in the file is zeros, which nobody reads here.
        Section(name.rstrip(b"\0").decode("ascii", "replace"), address, offset, min(virtual, raw))
        for name, virtual, address, raw, offset in _SECTION.iter_unpack(rows)
    )
    return Pe(image, machine, sections, directories, has_symbols=symbols != 0)


def linkage(file: Pe) -> Linkage:
    """What the library offers and asks for.

    :raises Damaged: a table points outside the file.
    """
    soname, exported = _exports(file)
    imports = list(_imports(file))
    needed = tuple(dict.fromkeys(library for library, _ in imports))
    machine = _MACHINES.get(file.machine, f"{file.machine:#x}")
    says = {
        name: returned_text(file.loaded, exported[name], machine)
        for name in ("ggml_version", "ggml_commit")
        if name in exported
    }
    return Linkage(
        format="pe",
        machine=machine,
        exported=tuple(sorted(exported)),
        undefined=tuple(sorted({name for _, names in imports for name in names})),
        needed=needed,
        soname=soname,
        stripped=not file.has_symbols,
        cxx_runtime=_cxx_runtime(file, needed),
        ggml_version=says.get("ggml_version", ""),
        ggml_commit=says.get("ggml_commit", ""),
    )


def _cxx_runtime(file: Pe, needed: Iterable[str]) -> Literal["static", "shared", ""]:
    if any(_CXX_RUNTIMES.fullmatch(library) for library in needed):
        return "shared"
    inside = any(_USES_CXX_RUNTIME.search(file.find(name)) for name in (".data", ".rdata"))
    return "static" if inside else ""


def _exports(file: Pe) -> tuple[str, dict[str, int]]:
    """The library's own name, and the address of each function that it exports by name."""
    directory = file.directory(_EXPORT_DIRECTORY)
    if not directory:
        return "", {}
    name, _, functions, number, places, names, ordinals = file.image.unpack(
        _EXPORTS, file.at(directory)
    )
    if max(number, functions) > MOST_NAMES:
        raise Damaged(f"a table of {number} exported names of {functions} functions")

    def table(layout: struct.Struct, address: int, rows: int) -> list[int]:
        content = file.image.cut(file.at(address), rows * layout.size) if rows else b""
        return [value for (value,) in layout.iter_unpack(content)]

    addresses = table(_WORD, places, functions)
    exported = {}
    for text, index in zip(
        table(_WORD, names, number), table(_HALF, ordinals, number), strict=True
    ):
        if index >= len(addresses):
            raise Damaged(f"an exported name of function {index}, not there")
        exported[file.name(text)] = addresses[index]
    return file.name(name) if name else "", exported


def _imports(file: Pe) -> Iterator[tuple[str, list[str]]]:
    """(library, names) of the libraries loaded at once, then of those loaded at the first call."""
    for index, layout, library_field, names_field in (
        (_IMPORT_DIRECTORY, _IMPORT, 3, 0),
        (_DELAYED_DIRECTORY, _DELAYED, 1, 4),
    ):
        directory = file.directory(index)
        for number in count() if directory else ():
            row = file.image.unpack(layout, file.at(directory + number * layout.size))
            if not row[library_field]:
                break
            # A bound library keeps its names in the first table only; either serves.
            thunks = row[names_field] or row[4]
            yield file.name(row[library_field]), list(_thunks(file, thunks))


def _thunks(file: Pe, address: int) -> Iterator[str]:
    for number in count() if address else ():
        file.spend(COST_OF_IMPORT)
        (thunk,) = file.image.unpack(_THUNK, file.at(address + number * _THUNK.size))
        if not thunk:
            return
        if not thunk & _BY_ORDINAL:
            yield file.name((thunk & 0x7FFFFFFF) + 2)  # behind a hint of two bytes
