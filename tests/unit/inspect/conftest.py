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
    address: int = 0
    flags: int = 0


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
                part.flags,
                part.address,
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
        code: bytes = b"\x90",
        more: tuple[Part, ...] = (),
    ) -> bytes:
        """All exported functions begin where ``code`` does, at address 0."""
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
            Part(".text", 1, code, flags=2),
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

    def bundle(self, *objects: tuple[str, bytes]) -> bytes:
        """AMD's container of (id, code object)."""
        table = 32 + sum(24 + len(name) for name, _ in objects)
        head = b"__CLANG_OFFLOAD_BUNDLE__" + struct.pack("<Q", len(objects))
        body = b""
        for name, code in objects:
            head += struct.pack("<QQQ", table + len(body), len(code), len(name)) + name.encode()
            body += code
        return head + body

    def code_object(self, functions: dict[str, list[int]], *, text: bytes = b"") -> bytes:
        """AMD machine code, 32-bit words; .text is loaded at 0x2000 and .rodata at 0x1000."""
        code, rows = b"", []
        for name, words in functions.items():
            size = 4 * len(words)
            rows.append((name, FUNCTION, 0x2000 + len(code), size))
            rows.append((f"{name}.kd", OBJECT, 0x1000, 64))
            code += b"".join(struct.pack("<I", word) for word in words)
        names, places = self.strings([name for name, *_ in rows])
        symbols = bytes(24) + b"".join(
            struct.pack("<IBBHQQ", places[name], GLOBAL << 4 | kind, 0, 1, address, size)
            for name, kind, address, size in rows
        )
        parts = [
            Part(".text", 1, code, address=0x2000),
            Part(".dynsym", 11, symbols, ".dynstr", 1, 24),
            Part(".dynstr", 3, names),
            Part(".rodata", 1, bytes(64) + text + b"\0", address=0x1000),
        ]
        return self.elf(parts, machine=224)

    def dll(
        self,
        fatbin: bytes = b"",
        *,
        exported: tuple[str, ...] = (),
        imported: tuple[tuple[str, tuple[str, ...]], ...] = (),
        delayed: tuple[tuple[str, tuple[str, ...]], ...] = (),
        repeat_imports: int = 1,
        code: bytes = b"\x90",
        rdata: bytes = b"",
        name: str = "ggml-cuda.dll",
        machine: int = 0x8664,
    ) -> bytes:
        """A PE file of two sections: .rdata with the tables at 0x1000, .nv_fatb behind it.

        All exported functions begin where ``code`` does.
        """
        data = bytearray(rdata + bytes(-len(rdata) % 8))

        def put(content: bytes) -> int:
            data.extend(content + bytes(-len(content) % 8))
            return 0x1000 + len(data) - len(content) - (-len(content) % 8)

        def thunks(names: tuple[str, ...]) -> int:
            places = [put(b"\0\0" + text.encode() + b"\0") for text in names]
            return put(b"".join(struct.pack("<Q", place) for place in [*places, 1 << 63 | 7, 0]))

        places = [put(text.encode() + b"\0") for text in exported]
        table = put(b"".join(struct.pack("<I", place) for place in places))
        functions = put(struct.pack("<I", put(code)) * len(places))
        ordinals = put(b"".join(struct.pack("<H", index) for index in range(len(places))))
        exports = put(
            struct.pack(
                "<12xIIIIIII",
                put(name.encode() + b"\0"),
                *(1, len(places), len(places), functions, table, ordinals),
            )
        )
        rows = [
            (put(lib.encode() + b"\0"), thunks(names)) for lib, names in imported
        ] * repeat_imports
        imports = put(
            b"".join(struct.pack("<IIIII", place, 0, 0, lib, place) for lib, place in rows)
            + bytes(20)
        )
        rows = [(put(lib.encode() + b"\0"), thunks(names)) for lib, names in delayed]
        delays = put(
            b"".join(struct.pack("<IIIIIIII", 1, lib, 0, 0, place, 0, 0, 0) for lib, place in rows)
            + bytes(32)
        )
        directories = [(0, 0)] * 16
        directories[0], directories[1], directories[13] = (exports, 40), (imports, 20), (delays, 32)
        optional = struct.pack("<H", 0x20B) + bytes(106) + struct.pack("<I", 16)
        optional += b"".join(struct.pack("<II", *row) for row in directories)
        offset = 64 + 24 + len(optional) + 2 * 40
        sections = struct.pack("<8sIIII16x", b".rdata", len(data), 0x1000, len(data), offset)
        sections += struct.pack(
            "<8sIIII16x", b".nv_fatb", len(fatbin), 0x100000, len(fatbin), offset + len(data)
        )
        head = b"MZ" + bytes(58) + struct.pack("<I", 64)
        head += struct.pack("<4sHHIIIHH", b"PE\0\0", machine, 2, 0, 0, 0, len(optional), 0x2022)
        return head + optional + sections + bytes(data) + fatbin

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
