"""Files that give no more than a bound, whatever their own numbers say."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from llamabuild.errors import SourceError

__all__ = ["CHUNK", "Careful", "Limits", "Stream", "decompressed", "too_large"]

#: Bytes that are copied at once.
CHUNK = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Bounds of an archive: far above any real source, far below what hurts.

    ``headers`` bounds, in bytes, what is read into memory at once: a ZIP's directory, a long
    name. (A llamafile's directory takes about 100 bytes for each of a few hundred members.)
    ``dictionary`` bounds the memory of an xz stream.
    """

    members: int = 50_000
    unpacked: int = 1 << 30
    headers: int = 64 << 20
    dictionary: int = 256 << 20


def too_large() -> SourceError:
    return SourceError("the archive unpacks to more than any source does, so it was left")


class Careful(io.BufferedReader):
    """A file of which nobody reads more than a bound at once, whatever its own numbers say."""

    def __init__(self, raw: io.RawIOBase, bound: int) -> None:
        super().__init__(raw)
        self._bound = bound

    def read(self, size: int | None = -1, /) -> bytes:
        """Read like any file, but refuse requests beyond the bound."""
        if size is not None and size >= 0:
            if size > self._bound:
                raise _absurd(size)
            return super().read(size)
        data = bytearray()
        while more := super().read(CHUNK):
            data += more
            if len(data) > self._bound:
                raise _absurd(len(data))
        return bytes(data)


def _absurd(size: int) -> SourceError:
    return SourceError(
        f"the archive's directory claims {size:,} bytes, which no source needs",
        hint="get the file again and compare its size or checksum with the original's",
    )


class Stream(io.RawIOBase):
    """Decompressed bytes, counted, that can be read forwards only."""

    def __init__(self, file: IO[bytes], limits: Limits) -> None:
        super().__init__()
        self._file = file
        self._limits = limits
        self._position = 0

    def read(self, size: int = -1, /) -> bytes:
        """Return up to ``size`` bytes."""
        if not 0 <= size <= self._limits.headers:
            raise _absurd(size)
        data = self._file.read(size)
        self._position += len(data)
        if self._position > self._limits.unpacked:
            raise too_large()
        return data

    def seek(self, position: int, whence: int = os.SEEK_SET, /) -> int:
        """Skip to a later position."""
        if whence != os.SEEK_SET or position < self._position:
            raise ValueError("an archive's stream cannot be read backwards")
        while self._position < position and self.read(min(CHUNK, position - self._position)):
            pass
        return self._position

    def tell(self) -> int:
        """Bytes read or skipped until now."""
        return self._position

    def seekable(self) -> bool:
        """Forwards only."""
        return True

    def readable(self) -> bool:
        """Always."""
        return True


@contextmanager
def decompressed(path: Path, limits: Limits) -> Iterator[Stream]:
    import bz2
    import gzip

    with path.open("rb") as raw:
        magic = raw.read(6)
        raw.seek(0)
        file: object = raw
        if magic.startswith(b"\x1f\x8b"):
            file = gzip.GzipFile(fileobj=raw)
        elif magic.startswith(b"BZh"):
            file = bz2.BZ2File(raw)
        elif magic.startswith(b"\xfd7zXZ"):
            file = io.BufferedReader(cast("io.RawIOBase", _Xz(raw, limits.dictionary)))
        yield Stream(cast("IO[bytes]", file), limits)


class _Xz(io.RawIOBase):
    """An xz stream whose decoder may use so much memory and no more (LZMAFile has no bound)."""

    def __init__(self, raw: IO[bytes], memory: int) -> None:
        import lzma

        super().__init__()
        self._raw = raw
        self._decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=memory)

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: bytearray, /) -> int:  # type: ignore[override]
        """Fill ``buffer`` with what comes next; 0 at the end."""
        data = b""
        while not data and not self._decoder.eof:
            packed = self._raw.read(CHUNK) if self._decoder.needs_input else b""
            if self._decoder.needs_input and not packed:
                raise EOFError("the xz stream ends in the middle")
            data = self._decoder.decompress(packed, len(buffer))
        buffer[: len(data)] = data
        return len(data)
