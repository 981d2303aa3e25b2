"""Bounded reading of bytes that nobody here wrote.

Every offset, length and count in a foreign file is a claim. A reader asks its :class:`Image`, which
answers within the file or raises :class:`Damaged`; names are handed out on a budget, because a
small file can point a million symbols at one long string.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

__all__ = ["LONGEST_NAME", "Budget", "Damaged", "Image", "Names", "Unreadable"]

#: Bytes. Mangled names of real kernels (cutlass templates) reach some 4,000.
LONGEST_NAME = 1 << 15


#: Bytes. The largest cubins of ggml, unpacked, are below 10 MB.
LARGEST_PIECE = 1 << 28


class Damaged(Exception):
    """The bytes do not hold what their format promises. Never leaves this package."""


class Unreadable(Exception):
    """The bytes may be sound, but are packed in a way that cannot be read here."""


@dataclass(frozen=True)
class Image:
    """Bytes of a file, or of something embedded in one."""

    data: memoryview

    def __len__(self) -> int:
        return len(self.data)

    def cut(self, offset: int, size: int) -> memoryview:
        """Exactly ``size`` bytes.

        :raises Damaged: they do not all lie inside.
        """
        if offset < 0 or size < 0 or offset + size > len(self.data):
            raise Damaged(f"{size} bytes at offset {offset} lie outside its {len(self.data)} bytes")
        return self.data[offset : offset + size]

    def unpack(self, layout: struct.Struct, offset: int) -> tuple[Any, ...]:
        """Numbers at ``offset``.

        :raises Damaged: they do not all lie inside.
        """
        return layout.unpack(self.cut(offset, layout.size))


@dataclass
class Names:
    """A table of NUL-terminated strings, read on a budget.

    The names of an honest file overlap little (linkers merge tails): eight times the table is far
    more than any needs, and bounds what a hostile one can cost.
    """

    table: bytes
    spent: int = field(default=0, init=False)

    def at(self, offset: int) -> str:
        """The string at ``offset``, undecodable bytes replaced.

        :raises Damaged: it lies outside the table, has no end, or the budget is spent.
        """
        end = self.table.find(b"\0", offset, offset + LONGEST_NAME) if offset >= 0 else -1
        if end < 0:
            raise Damaged(f"no name ends near offset {offset} of a string table")
        self.spent += end - offset + 1
        if self.spent > 8 * len(self.table) + LONGEST_NAME:
            raise Damaged("its symbols share one string table beyond any use")
        return self.table[offset:end].decode("utf-8", "replace")


class Budget:
    """Bounds what a whole file may unpack to.

    Honest code packs to a tenth of its size, a hostile file's to a thirty-thousandth.
    """

    def __init__(self, file_bytes: int) -> None:
        self._left = (1 << 24) + 20 * file_bytes

    def spend(self, size: int) -> None:
        """Take ``size`` bytes off.

        :raises Unreadable: that is more than is left, or more than any real piece.
        """
        self._left -= size
        if self._left < 0 or size > LARGEST_PIECE:
            raise Unreadable(f"it claims to unpack to {size} bytes, far more than any real one")
