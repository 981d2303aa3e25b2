"""NVIDIA's fat binaries: what nvcc's ``fatbinary`` writes and the driver chooses from.

NVIDIA documents none of this. The layout was learned from the output of CUDA 11.8 and 13.0 with
every compression mode, and the tests compare it with ``cuobjdump``. A section holds containers,
one after another, each at a multiple of eight bytes:

    container  u32 magic 0xBA55ED50, u16 version 1, u16 header size, u64 size of what follows
    entry      u16 kind, u16 version, u32 header size, u64 payload size (padded)
               u32 packed size, u32 offset of options, u16 minor, u16 major, u32 architecture
               u32 name offset, u32 name size, u64 flags, u64 unknown, u64 unpacked size

Each entry's payload follows its header.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from llamabuild.inspect import lz4, zstd
from llamabuild.inspect.image import Budget, Damaged, Image

__all__ = ["Payload", "containers"]

MAGIC = 0xBA55ED50
_CONTAINER = struct.Struct("<IHHQ")
_ENTRY = struct.Struct("<HHIQIIHHIIIQQQ")
_KINDS: dict[int, Literal["sass", "ptx"]] = {1: "ptx", 2: "sass"}

_LZ4, _ZSTD = 0x2000, 0x8000
_SUFFIXES = {0x100000: "a", 0x200000: "f"}

_NOT_PADDING = re.compile(rb"[^\0]")

#: Entries in one section. The largest libraries (cuBLAS) hold some tens of thousands.
MOST_ENTRIES = 200_000


@dataclass(frozen=True)
class Payload:
    """One entry of a container, still packed."""

    container: int
    kind: Literal["sass", "ptx"]
    number: int  # of the architecture: 90
    arch: str  # with its suffix: "90a"
    version: tuple[int, int]  # of the PTX language: (7, 8); means something else for a cubin
    flags: int
    packed: memoryview
    size: int  # bytes when unpacked, as the header claims

    def unpack(self, budget: Budget) -> memoryview:
        """The cubin or the PTX text.

        :raises Damaged: it does not unpack to what the header claims.
        :raises Unreadable: beyond the budget, or packed with zstd and no decoder is installed.
        """
        if not self.flags & (_LZ4 | _ZSTD):
            return self.packed
        budget.spend(self.size)
        unpack = lz4.decompress if self.flags & _LZ4 else zstd.decompress
        return memoryview(unpack(self.packed, self.size))


def containers(section: memoryview) -> Iterator[Payload]:
    """Every PTX and SASS entry of a section, container by container.

    Kinds other than those (link-time intermediate code, indexes) are passed over: no driver runs
    them.

    :raises Damaged: a length points outside the section, or a container does not begin as one.
    """
    image = Image(section)
    at = number = entries = 0
    while at < len(image):
        content = _NOT_PADDING.search(section, at)
        if content is None:
            return
        at = content.start() // 8 * 8
        magic, version, header, size = image.unpack(_CONTAINER, at)
        if magic != MAGIC or version != 1 or header < _CONTAINER.size:
            raise Damaged(f"no fat binary begins at offset {at} of its section")
        body = Image(image.cut(at + header, size))
        inside = 0
        while inside < len(body):
            entries += 1
            if entries > MOST_ENTRIES:
                raise Damaged(f"more than {MOST_ENTRIES} entries")
            payload, length = _entry(body, inside, number)
            inside += length
            if payload is not None:
                yield payload
        number += 1
        at += (header + size + 7) // 8 * 8


def _entry(body: Image, at: int, container: int) -> tuple[Payload | None, int]:
    (code, _, header, padded, packed, _, minor, major, arch, _, _, flags, _, size) = body.unpack(
        _ENTRY, at
    )
    if header < _ENTRY.size:
        raise Damaged(f"an entry's header claims {header} bytes")
    content = body.cut(at + header, padded)
    length = header + padded
    kind = _KINDS.get(code)
    if kind is None:
        return None, length
    if flags & (_LZ4 | _ZSTD):
        if packed > padded:
            raise Damaged(f"an entry claims {packed} packed bytes in {padded}")
        content = content[:packed]
    suffix = next((text for bit, text in _SUFFIXES.items() if flags & bit), "")
    payload = Payload(
        container, kind, arch, f"{arch}{suffix}", (major, minor), flags, content, size
    )
    return payload, length
