"""AMD's code objects: the bundles that clang puts into ``.hip_fatbin``, and the kernels in them.

A section holds bundles, one for each translation unit, perhaps compressed. Both layouts are
described in clang's "Clang Offload Bundler" page:

    bundle      24 bytes magic, u64 number of entries; each u64 offset, u64 size, u64 length, id
    compressed  magic CCOB, u16 version, u16 method (0 zlib, 1 zstd), then
                version 1: u32 unpacked size, u64 hash
                version 2: u32 whole size, u32 unpacked size, u64 hash
                version 3: u64 whole size, u64 unpacked size, u64 hash

A kernel is an ELF symbol ``NAME`` beside an object ``NAME.kd``, its descriptor.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from llamabuild.inspect import elf, traps, zstd
from llamabuild.inspect.image import Budget, Damaged, Image
from llamabuild.inspect.model import Kernel, Trap

__all__ = ["CodeObject", "bundles", "kernels"]

_MAGIC = b"__CLANG_OFFLOAD_BUNDLE__"
_PACKED_MAGIC = b"CCOB"
_COUNT = struct.Struct("<Q")
_ENTRY = struct.Struct("<QQQ")
_PACKED = struct.Struct("<4sHH")
_SIZES = {1: struct.Struct("<IQ"), 2: struct.Struct("<IIQ"), 3: struct.Struct("<QQQ")}
_ZLIB, _ZSTD = 0, 1
_NOT_PADDING = re.compile(rb"[^\0]")
#: "hipv4-amdgcn-amd-amdhsa--gfx90a:xnack-": kind, triple (its last part empty), target.
_ID = re.compile(r"[^-]*-(?:amdgcn|amdgpu)-.*?-(gfx[0-9a-z-]*(?::[a-z]+[+-])*)-?")

#: Entries in one bundle; there are some 40 targets in the world.
MOST_ENTRIES = 1 << 12
LONGEST_ID = 1 << 10

#: ``s_trap 2`` and ``s_endpgm``, 32 bits each, by the first number of the target (gfx9.., gfx11..).
_OLD_TRAP, _OLD_END = 0xBF920002, 0xBF810000
_TRAP, _END = 0xBF900002, 0xBFB00000
_RENUMBERED = 11
_WORD = struct.Struct("<I")


@dataclass(frozen=True)
class CodeObject:
    """One entry of a bundle. ``target`` is a target id: "gfx90a:xnack-"."""

    container: int
    target: str
    code: memoryview


def bundles(section: memoryview, budget: Budget) -> Iterator[CodeObject]:
    """Every code object for a GPU, bundle by bundle.

    :raises Damaged: a length points outside, or a bundle does not begin as one.
    :raises Unreadable: beyond the budget, or packed with zstd and no decoder is installed.
    """
    at = number = 0
    while found := _NOT_PADDING.search(section, at):
        at = found.start()
        image = Image(section[at:])
        if image.data[: len(_PACKED_MAGIC)] == _PACKED_MAGIC:
            unpacked, length = _unpack(image, budget)
            objects, _ = _entries(unpacked, number)
        else:
            objects, length = _entries(image, number)
        yield from objects
        at += length
        number += 1


def _entries(image: Image, number: int) -> tuple[list[CodeObject], int]:
    """The code objects of one bundle, and where it ends."""
    if image.data[: len(_MAGIC)] != _MAGIC:
        raise Damaged("no offload bundle begins where one should")
    at = len(_MAGIC)
    (count,) = image.unpack(_COUNT, at)
    if count > MOST_ENTRIES:
        raise Damaged(f"an offload bundle of {count} entries")
    at += _COUNT.size
    objects, end, claimed = [], at, 0
    for _ in range(count):
        offset, size, length = image.unpack(_ENTRY, at)
        if length > LONGEST_ID:
            raise Damaged(f"an entry's name of {length} bytes")
        name = bytes(image.cut(at + _ENTRY.size, length)).decode("ascii", "replace")
        at += _ENTRY.size + length
        end = max(end, at, offset + size)
        claimed += size
        if claimed > 2 * len(image):  # Entries that overlap would be read over and over.
            raise Damaged("the entries of an offload bundle claim more bytes than it has")
        code = image.cut(offset, size)
        target = _ID.fullmatch(name)
        if target is not None and size:
            objects.append(CodeObject(number, target[1], code))
    return objects, end


def _unpack(image: Image, budget: Budget) -> tuple[Image, int]:
    """What a compressed bundle holds, and where it ends."""
    _, version, method = image.unpack(_PACKED, 0)
    sizes = _SIZES.get(version)
    if sizes is None:
        raise Damaged(f"a compressed offload bundle of version {version}")
    *whole, size, _ = image.unpack(sizes, _PACKED.size)
    header = _PACKED.size + sizes.size
    if whole:
        length = whole[0]
    else:  # Version 1 does not say where it ends; the next one begins after it.
        following = re.compile(_PACKED_MAGIC).search(image.data, header)
        length = following.start() if following else len(image)
    packed = image.cut(header, length - header)
    budget.spend(size)
    if method == _ZSTD:
        return Image(memoryview(zstd.decompress(packed, size))), length
    if method != _ZLIB:
        raise Damaged(f"a bundle compressed by method {method}")
    try:
        unpacked = zlib.decompressobj().decompress(packed, size + 1)
    except zlib.error as error:
        raise Damaged(f"a compressed piece cannot be unpacked: {error}") from None
    if len(unpacked) != size:
        raise Damaged(f"a compressed piece gives {len(unpacked)} bytes and promised {size}")
    return Image(memoryview(unpacked)), length


def kernels(code: memoryview, target: str) -> tuple[Kernel, ...]:
    """The kernels of a code object.

    :raises Damaged: it is no readable ELF file.
    """
    file = elf.parse(Image(code))
    symbols = {symbol.name: symbol for symbol in file.dynamic_symbols()}
    messages = _messages(file)
    judged: dict[tuple[int, int], Trap] = {}  # by place, for symbols may share one
    found = []
    claimed = 0
    for name in symbols:
        kernel = symbols.get(name.removesuffix(".kd"))
        if not name.endswith(".kd") or kernel is None:
            continue
        place = (kernel.value, kernel.size)
        if place not in judged:
            claimed += kernel.size
            if claimed > 2 * len(code):
                raise Damaged("its kernels claim more bytes than it has")
            judged[place] = _verdict(_code_of(file, kernel), kernel.value, target, messages)
        found.append(Kernel(kernel.name, judged[place]))
    return tuple(found)


def _code_of(file: elf.Elf, symbol: elf.Symbol) -> memoryview:
    if symbol.section >= len(file.sections):
        raise Damaged(f"{symbol.name} lies in section {symbol.section}, not there")
    section = file.sections[symbol.section]
    start = symbol.value - section.address
    return Image(file.content(section)).cut(start, symbol.size)


def _messages(file: elf.Elf) -> frozenset[int]:
    """Addresses of the texts with which a source gives up."""
    section = file.section(".rodata")
    if section is None:
        return frozenset()
    return frozenset(section.address + at for at in traps.messages_in(file.content(section)))


def _verdict(code: memoryview, address: int, target: str, messages: frozenset[int]) -> Trap:
    generation = re.match(r"gfx(\d+?)(?:[0-9a-f]{2}$|-)", target.partition(":")[0])
    if generation is None:
        return "unknown"
    renumbered = int(generation[1]) >= _RENUMBERED
    trap, end = (_TRAP, _END) if renumbered else (_OLD_TRAP, _OLD_END)
    whole = code[: len(code) - len(code) % _WORD.size]
    first = _WORD.unpack_from(whole)[0] if whole else 0
    # A text is addressed relative to the program counter: s_getpc, then s_add with a literal that
    # counts from the instruction before it. So a word that points at a text gives it away.
    for index, (word,) in enumerate(_WORD.iter_unpack(whole if messages else b"")):
        if (address + 4 * index - 4 + word) & 0xFFFFFFFF in messages:
            return "trapped"
    if first == trap:
        return "trapped"
    # Instructions vary in length, so a literal may look like a trap; and a kernel may be empty on
    # purpose or because nothing was compiled for this target.
    traps_found = re.compile(re.escape(_WORD.pack(trap)), re.DOTALL).finditer(whole)
    holds_trap = any(match.start() % _WORD.size == 0 for match in traps_found)
    return "suspect" if holds_trap or first == end else "none"
