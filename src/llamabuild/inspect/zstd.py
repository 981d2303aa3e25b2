"""Decompression of zstd, by the package ``zstandard``."""

from __future__ import annotations

from llamabuild.inspect.image import Damaged, Unreadable

__all__ = ["decompress"]


def decompress(packed: memoryview, size: int) -> bytes:
    """Unpack one frame to exactly ``size`` bytes.

    :raises Damaged: it is no such frame, or does not give ``size`` bytes.
    :raises Unreadable: no decoder is installed.
    """
    try:
        import zstandard
    except ImportError:
        raise Unreadable("it is packed with zstd, and the package zstandard is missing") from None
    try:  # One byte more than promised, to see whether there is more; never all that there is.
        unpacked = zstandard.ZstdDecompressor().stream_reader(packed).read(size + 1)
    except zstandard.ZstdError as error:
        raise Damaged(f"a compressed piece cannot be unpacked: {error}") from None
    if len(unpacked) != size:
        raise Damaged(f"a compressed piece gives {len(unpacked)} bytes and promised {size}")
    return unpacked
