"""The little of ELF that inspection needs: sections, symbols, needed libraries and versions.

Written by hand rather than on pyelftools because three things must hold at once: it reads hundreds
of cubins inside one module (a symbol costs a microsecond, not fifty), it survives hostile files
with bounded memory, and importing it costs nothing. The tests use pyelftools as the second opinion.
The layout is the System V gABI's; version sections are described in the Linux Standard Base.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from llamabuild.inspect.constants import returned_text
from llamabuild.inspect.image import Damaged, Image, Names
from llamabuild.inspect.model import Linkage

__all__ = ["MAGIC", "Elf", "Section", "Symbol", "linkage", "parse"]

MAGIC = b"\x7fELF"

#: Shared C++ runtimes, and a name that stands in each of them: in a module, it came in statically.
_CXX_RUNTIMES = re.compile(r"lib(?:std)?c\+\+(?:abi)?\.so\b.*")
_CXX_RUNTIME_INSIDE = re.compile(rb"N10__cxxabiv117__class_type_infoE")

#: More sections or symbols than any real file; 67,000 kernels would fit.
MOST_SECTIONS = 1 << 18
MOST_SYMBOLS = 1 << 21

_HEADER = struct.Struct("<4sBBBBB7xHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_DYNAMIC = struct.Struct("<qQ")
_VERNEED = struct.Struct("<HHIII")
_VERNAUX = struct.Struct("<IHHII")

_CLASS_64, _LITTLE_ENDIAN = 2, 1
_SHT_SYMTAB, _SHT_DYNAMIC, _SHT_NOTE, _SHT_NOBITS, _SHT_DYNSYM = 2, 6, 7, 8, 11
_SHT_GNU_VERNEED = 0x6FFFFFFE
_DT_NEEDED, _DT_SONAME, _DT_RPATH, _DT_RUNPATH = 1, 14, 15, 29
_SHN_UNDEF = 0
_LOCAL, _WEAK = 0, 2
_NT_GNU_BUILD_ID = 3
_SHF_ALLOC = 2
_MACHINES = {62: "x86_64", 183: "aarch64", 21: "ppc64le", 243: "riscv64"}


class Section(NamedTuple):
    """One row of the section header table."""

    name: str
    kind: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    entry_size: int


class Symbol(NamedTuple):
    """One row of a symbol table. ``section`` 0 means undefined."""

    name: str
    value: int
    size: int
    kind: int
    binding: int
    other: int
    section: int


@dataclass(frozen=True)
class Elf:
    """A parsed header and section table over the bytes they describe."""

    image: Image
    machine: int
    flags: int
    os_abi: int
    abi_version: int
    sections: tuple[Section, ...]

    @cached_property
    def _by_name(self) -> dict[str, Section]:
        return {section.name: section for section in reversed(self.sections)}

    def section(self, name: str) -> Section | None:
        """The first section of that name."""
        return self._by_name.get(name)

    def content(self, section: Section) -> memoryview:
        """The bytes of a section; empty for one that takes no room in the file (``.bss``)."""
        if section.kind == _SHT_NOBITS:
            return memoryview(b"")
        return self.image.cut(section.offset, section.size)

    def linked(self, section: Section) -> Section:
        """The section that ``section`` names as its own (a symbol table's strings)."""
        if section.link >= len(self.sections):
            raise Damaged(f"section {section.name} refers to section {section.link}, not there")
        return self.sections[section.link]

    def symbols(self, kind: int = _SHT_SYMTAB) -> Iterator[Symbol]:
        """All symbols of the first symbol table of that kind; none where there is none."""
        table = next((section for section in self.sections if section.kind == kind), None)
        if table is None:
            return
        if table.size > MOST_SYMBOLS * _SYMBOL.size:
            raise Damaged(f"a table of {table.size // _SYMBOL.size} symbols")
        names = Names(bytes(self.content(self.linked(table))))
        rows = self.content(table)
        whole = len(rows) - len(rows) % _SYMBOL.size
        for name, info, other, section, value, size in _SYMBOL.iter_unpack(rows[:whole]):
            yield Symbol(names.at(name), value, size, info & 15, info >> 4, other, section)

    def find(self, name: str) -> memoryview:
        """The bytes of the first section of that name; empty where there is none."""
        section = self.section(name)
        return memoryview(b"") if section is None else self.content(section)

    def loaded(self, address: int, size: int) -> bytes:
        """At most ``size`` bytes that lie at an address when the file is loaded.

        :raises Damaged: nothing from the file lies there.
        """
        for section in self.sections:
            if section.flags & _SHF_ALLOC and 0 <= address - section.address < section.size:
                return bytes(self.content(section)[address - section.address :][:size])
        raise Damaged(f"address {address:#x} lies in none of its sections")

    def dynamic_symbols(self) -> Iterator[Symbol]:
        """The symbols that the dynamic linker sees."""
        return self.symbols(_SHT_DYNSYM)


def parse(image: Image) -> Elf:
    """Read the header and the section table of a 64-bit little-endian ELF file.

    :raises Damaged: it is of another kind, or its tables lie outside the file.
    """
    (magic, width, order, _, os_abi, abi_version, _, machine, _, _, _, table, flags, *sizes) = (
        image.unpack(_HEADER, 0)
    )
    if magic != MAGIC:
        raise Damaged("it does not begin as an ELF file does")
    if (width, order) != (_CLASS_64, _LITTLE_ENDIAN):
        raise Damaged("it is a 32-bit or big-endian ELF file; every GPU module is 64-bit")
    _, _, _, row_size, count, names_index = sizes
    if table == 0:
        return Elf(image, machine, flags, os_abi, abi_version, ())
    if row_size != _SECTION.size:
        raise Damaged(f"its section headers are {row_size} bytes long")
    # A file with 65,280 sections or more keeps the true numbers in its first, unused header.
    first = image.unpack(_SECTION, table)
    count = count or first[5]
    names_index = first[6] if names_index == 0xFFFF else names_index
    if count > MOST_SECTIONS:
        raise Damaged(f"a table of {count} sections")
    rows = list(_SECTION.iter_unpack(image.cut(table, count * _SECTION.size)))
    if names_index >= len(rows):
        raise Damaged("its section names are not there")
    # Sections do not overlap; a file in which they did could make every reader read it many times.
    if sum(row[5] for row in rows if row[1] not in (0, _SHT_NOBITS)) > 2 * len(image):
        raise Damaged("its sections claim more bytes than it has")
    names = Names(bytes(image.cut(rows[names_index][4], rows[names_index][5])))
    sections = tuple(
        Section(names.at(name), kind, flag, address, offset, size, link, info, entry_size)
        for name, kind, flag, address, offset, size, link, info, _, entry_size in rows
    )
    return Elf(image, machine, flags, os_abi, abi_version, sections)


def linkage(file: Elf) -> Linkage:
    """What the library offers and asks for.

    :raises Damaged: a table points outside the file or outside its strings.
    """
    symbols = list(file.symbols(_SHT_DYNSYM))
    versions = tuple(_versions(file))
    tags = list(_dynamic(file))
    needed = tuple(text for tag, text in tags if tag == _DT_NEEDED)
    machine = _MACHINES.get(file.machine, str(file.machine))
    addresses = {
        symbol.name: symbol.value
        for symbol in symbols
        if symbol.section and symbol.name in ("ggml_version", "ggml_commit")
    }
    says = {
        name: returned_text(file.loaded, address, machine) for name, address in addresses.items()
    }
    return Linkage(
        format="elf",
        machine=machine,
        exported=_names(
            symbol for symbol in symbols if symbol.section and symbol.binding != _LOCAL
        ),
        undefined=_names(
            symbol
            for symbol in symbols
            if not symbol.section and symbol.binding not in (_LOCAL, _WEAK)
        ),
        needed=needed,
        soname=next((text for tag, text in tags if tag == _DT_SONAME), ""),
        stripped=file.section(".symtab") is None,
        runpath=tuple(
            folder
            for tag, text in tags
            if tag in (_DT_RPATH, _DT_RUNPATH)
            for folder in text.split(":")
            if folder
        ),
        glibc=_highest("GLIBC", versions),
        glibcxx=_highest("GLIBCXX", versions),
        build_id=_build_id(file),
        cxx_runtime=_cxx_runtime(file, needed),
        ggml_version=says.get("ggml_version", ""),
        ggml_commit=says.get("ggml_commit", ""),
    )


def _cxx_runtime(file: Elf, needed: Iterable[str]) -> Literal["static", "shared", ""]:
    if any(_CXX_RUNTIMES.fullmatch(library) for library in needed):
        return "shared"
    return "static" if _CXX_RUNTIME_INSIDE.search(file.find(".rodata")) else ""


def _names(symbols: Iterable[Symbol]) -> tuple[str, ...]:
    return tuple(sorted({symbol.name for symbol in symbols if symbol.name}))


def _highest(prefix: str, versions: Iterable[str]) -> str:
    """The numerically highest of "PREFIX_1.2.3"; "GLIBC_PRIVATE" and its like count for nothing."""
    found = [re.fullmatch(rf"{prefix}_(\d{{1,9}}(?:\.\d{{1,9}})*)", text) for text in versions]
    numbers = [match[1] for match in found if match]
    return max(numbers, key=lambda text: [int(part) for part in text.split(".")], default="")


def _dynamic(file: Elf) -> Iterator[tuple[int, str]]:
    """(tag, text) of the rows of the dynamic section that stand for a text."""
    section = next((each for each in file.sections if each.kind == _SHT_DYNAMIC), None)
    if section is None:
        return
    names = Names(bytes(file.content(file.linked(section))))
    rows = file.content(section)
    for tag, value in _DYNAMIC.iter_unpack(rows[: len(rows) - len(rows) % _DYNAMIC.size]):
        if tag == 0:
            return
        if tag in (_DT_NEEDED, _DT_SONAME, _DT_RPATH, _DT_RUNPATH):
            yield tag, names.at(value)


def _versions(elf: Elf) -> Iterator[str]:
    section = next((each for each in elf.sections if each.kind == _SHT_GNU_VERNEED), None)
    if section is None:
        return
    rows = Image(elf.content(section))
    names = Names(bytes(elf.content(elf.linked(section))))
    # Chains of offsets within chains: as many steps in all as rows fit into the section.
    steps = len(rows) // _VERNAUX.size
    library = 0
    while True:
        _, _, _, version, next_library = rows.unpack(_VERNEED, library)
        version += library
        while steps > 0:
            steps -= 1
            _, _, _, name, next_version = rows.unpack(_VERNAUX, version)
            yield names.at(name)
            if next_version == 0:
                break
            version += next_version
        if next_library == 0 or steps <= 0:
            return
        library += next_library


def _build_id(elf: Elf) -> str:
    section = elf.section(".note.gnu.build-id")
    if section is None or section.kind != _SHT_NOTE:
        return ""
    note = Image(elf.content(section))
    name_size, size, kind = note.unpack(struct.Struct("<III"), 0)
    if kind != _NT_GNU_BUILD_ID:
        return ""
    return bytes(note.cut(12 + (name_size + 3) // 4 * 4, size)).hex()
