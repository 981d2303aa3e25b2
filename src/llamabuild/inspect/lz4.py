"""Decompression of one LZ4 block: what fatbinary wrote before CUDA 12.4, and still does for
``--compress-mode=speed``.

Pure Python, so that reading an old module needs no package; some tens of megabytes a second.
The format is lz4's own ``lz4_Block_format.md``.
"""

from __future__ import annotations

from llamabuild.inspect.image import Damaged

__all__ = ["decompress"]


def decompress(block: memoryview, size: int) -> bytes:
    """Unpack ``block`` to exactly ``size`` bytes.

    :raises Damaged: the block is cut short, points before its beginning, or does not give ``size``.
    """
    source = bytes(block)
    out = bytearray()
    at, end = 0, len(source)
    try:
        while at < end:
            token = source[at]
            literals, at = _length(source, at + 1, token >> 4)
            if at + literals > end or len(out) + literals > size:
                raise Damaged("a compressed piece is cut short")
            out += source[at : at + literals]
            at += literals
            if at == end:
                break
            distance = source[at] | source[at + 1] << 8
            match, at = _length(source, at + 2, token & 15)
            match += 4
            start = len(out) - distance
            if distance == 0 or start < 0 or len(out) + match > size:
                raise Damaged("a compressed piece refers to bytes that are not there")
            if distance >= match:
                out += out[start : start + match]
            else:  # The copy overlaps its own result: the last ``distance`` bytes repeat.
                out += (out[start:] * (match // distance + 1))[:match]
    except IndexError:
        raise Damaged("a compressed piece is cut short") from None
    if len(out) != size:
        raise Damaged(f"a compressed piece gives {len(out)} bytes and promised {size}")
    return bytes(out)


def _length(source: bytes, at: int, nibble: int) -> tuple[int, int]:
    """A length that continues in further bytes while they are 255, and where they end."""
    if nibble < 15:
        return nibble, at
    more = 255
    while more == 255:
        more = source[at]
        nibble += more
        at += 1
    return nibble, at
