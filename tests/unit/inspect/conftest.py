"""Forges modules, so that these tests need no compiler and no file that somebody else made."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import pytest

from llamabuild.inspect import Module, read_module

FUNCTION, OBJECT = 2, 1
GLOBAL, WEAK = 1, 2


@dataclass
class Part:
    name: str
    kind: int
    content: bytes
    link: str = ""
    info: int = 0
    entry_size: int = 0


class Forge:
    """Writes ELF files and fat binaries, byte by byte, as the formats' own pages say."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def elf(self, parts: list[Part], *, machine: int = 62, flags: int = 0) -> bytes:
        parts = [Part("", 0, b""), *parts, Part(".shstrtab", 3, b"")]
        names, places = self.strings([part.name for part in parts])
        parts[-1].content = names
        where = {part.name: index for index, part in enumerate(parts)}
        body, rows = b"", b""
        for part in parts:
            body += b"\0" * (-len(body) % 8)
            offset = 64 + len(body) if part.kind else 0
            rows += struct.pack(
                "<IIQQQQIIQQ",
                places[part.name],
                part.kind,
                0,
                0,
                offset,
                len(part.content),
                where.get(part.link, 0),
                part.info,
                8,
                part.entry_size,
            )
            body += part.content
        body += b"\0" * (-len(body) % 8)
        header = struct.pack(
            "<4sBBBBB7xHHIQQQIHHHHHH",
            *(b"\x7fELF", 2, 1, 1, 0, 0, 3, machine, 1, 0, 0, 64 + len(body), flags),
            *(64, 56, 0, 64, len(parts), len(parts) - 1),
        )
        return header + body + rows

    def strings(self, texts: list[str]) -> tuple[bytes, dict[str, int]]:
        table, places = b"\0", {"": 0}
        for text in texts:
            if text not in places:
                places[text] = len(table)
                table += text.encode() + b"\0"
        return table, places

    def symbols(
        self, rows: list[tuple[str, int, int, int, int]], *, dynamic: bool = False
    ) -> list[Part]:
        """Rows of (name, kind, binding, other, section)."""
        table, places = self.strings([row[0] for row in rows])
        content = bytes(24) + b"".join(
            struct.pack("<IBBHQQ", places[name], binding << 4 | kind, other, section, 0, 0)
            for name, kind, binding, other, section in rows
        )
        symtab, strtab = (".dynsym", ".dynstr") if dynamic else (".symtab", ".strtab")
        return [
            Part(symtab, 11 if dynamic else 2, content, strtab, 1, 24),
            Part(strtab, 3, table),
        ]

    def cubin(
        self, kernels: list[str], *, arch: int = 61, functions: tuple[str, ...] = ()
    ) -> bytes:
        rows = [(name, FUNCTION, GLOBAL, 0x10, 1) for name in kernels]
        rows += [(name, FUNCTION, GLOBAL, 0, 1) for name in functions]
        rows += [("vprintf", FUNCTION, GLOBAL, 0x10, 0)]
        text = Part(".text", 1, b"")
        return self.elf([text, *self.symbols(rows)], machine=190, flags=arch << 16 | arch)

    def code(
        self,
        functions: dict[str, bytes],
        *,
        text: bytes = b"",
        referred: tuple[str, ...] = (),
        through_constants: bool = False,
    ) -> bytes:
        """A cubin with machine code; ``referred`` functions refer to ``text`` by relocations.

        Through constants: all addresses stand in bank 4, the text's at offset 8.
        """
        parts = [Part(f".text.{name}", 1, content) for name, content in functions.items()]
        rows = [(name, FUNCTION, GLOBAL, 0x10, index + 1) for index, name in enumerate(functions)]
        # 10 bytes of something else come first, so that the symbol's value matters.
        rows += [("$str", OBJECT, 0, 0, len(parts) + 1)]
        parts.append(Part(".nv.global.init", 1, b"anything\0\0" + text + b"\0"))
        symtab, strtab = self.symbols(rows)
        last = bytearray(symtab.content)
        struct.pack_into("<Q", last, len(last) - 16, 10)
        symtab.content = bytes(last)
        for name in () if through_constants else referred:
            relocation = struct.pack("<QII", 0x38, 0x2B, len(rows))
            section = 1 + list(functions).index(name)
            parts.append(Part(f".rel.text.{name}", 9, relocation, ".symtab", section, 16))
        if through_constants:
            relocation = struct.pack("<QIIq", 8, 2, len(rows), 0)
            parts.append(Part(".rela.nv.constant4", 4, relocation, ".symtab", 0, 24))
        return self.elf([*parts, symtab, strtab], machine=190)

    def entry(
        self,
        payload: bytes,
        *,
        kind: int = 2,
        arch: int = 61,
        flags: int = 0x11,
        size: int | None = None,
        options: bytes = b"",
    ) -> bytes:
        """One entry of a fat binary; ``size`` is the unpacked size of a packed payload."""
        padded = payload + b"\0" * (-len(payload) % 8)
        packed = 0 if size is None else len(payload)
        return (
            struct.pack("<HHIQ", kind, 0x101, 64 + len(options), len(padded))
            + struct.pack("<IIHHIII", packed, 64 if options else 0, 7, 1, arch, 0, 0)
            + struct.pack("<QQQ", flags, 0, size or 0)
            + options
            + padded
        )

    def container(self, *entries: bytes) -> bytes:
        body = b"".join(entries)
        return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body

    def library(
        self,
        fatbin: bytes | None = None,
        *,
        exported: tuple[str, ...] = (),
        undefined: tuple[str, ...] = (),
        weak: tuple[str, ...] = (),
        needed: tuple[str, ...] = (),
        versions: tuple[str, ...] = (),
        soname: str = "",
        machine: int = 62,
        more: tuple[Part, ...] = (),
    ) -> bytes:
        rows = [(name, FUNCTION, GLOBAL, 0, 1) for name in exported]
        rows += [(name, FUNCTION, GLOBAL, 0, 0) for name in undefined]
        rows += [(name, FUNCTION, WEAK, 0, 0) for name in weak]
        symtab, strtab = self.symbols(rows, dynamic=True)
        tags = [(1, name) for name in needed] + ([(14, soname)] if soname else [])
        extra, places = self.strings([*needed, soname, *versions])
        base = len(strtab.content)
        strtab.content += extra
        dynamic = b"".join(struct.pack("<qQ", tag, base + places[text]) for tag, text in tags)
        parts = [
            Part(".text", 1, b"\x90"),
            symtab,
            strtab,
            Part(".dynamic", 6, dynamic + bytes(16), ".dynstr", 0, 16),
        ]
        if versions:
            need = struct.pack("<HHIII", 1, len(versions), base, 16, 0)
            for index, version in enumerate(versions):
                step = 0 if index == len(versions) - 1 else 16
                need += struct.pack("<IHHII", 0, 0, index + 2, base + places[version], step)
            parts.append(Part(".gnu.version_r", 0x6FFFFFFE, need, ".dynstr", 1))
        if fatbin is not None:
            parts.append(Part(".nv_fatbin", 1, fatbin))
        return self.elf([*parts, *more], machine=machine)

    def read(self, content: bytes, name: str = "ggml-cuda.so") -> Module:
        path = self.folder / name
        path.write_bytes(content)
        return read_module(path)


@pytest.fixture(scope="session")
def forge(tmp_path_factory: pytest.TempPathFactory) -> Forge:
    return Forge(tmp_path_factory.mktemp("forge"))


@pytest.fixture(scope="session")
def part() -> type[Part]:
    return Part
