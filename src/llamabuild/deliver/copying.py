"""Copying and comparing files that are larger than memory, and perhaps mostly holes.

The file system is asked first for a copy that shares its blocks with the original, then the
kernel for one that does not pass through this process, and only then are bytes read and written.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from io import FileIO

from llamabuild.events import Listener, StepAdvanced, StepFinished, StepStarted

__all__ = ["copy", "data_bytes", "difference", "share_blocks"]

#: Bytes that are copied or compared at once.
CHUNK = 4 << 20
#: A step says how far it is at most so often, and at most once in so many seconds.
_STEPS = 50
_SECONDS = 0.5
#: What a kernel or a file system says that cannot copy between two files by itself.
_CANNOT = {errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM, errno.ENOTTY}
#: linux/fs.h: _IOW(0x94, 9, int)
_FICLONE = 0x40049409
_MIB = 1 << 20


def share_blocks(source: FileIO, target: FileIO) -> bool:
    """Make ``target`` a copy that shares its blocks with ``source``; whether that can be done.

    Btrfs, XFS and bcachefs can; what is written later is written to one of the two only.
    """
    if sys.platform != "linux":
        return False
    import fcntl

    try:
        fcntl.ioctl(target.fileno(), _FICLONE, source.fileno())
    except OSError as error:
        if error.errno in _CANNOT:
            return False
        raise
    return True


def copy(source: FileIO, target: FileIO, length: int, step: str, notify: Listener) -> None:
    """Copy the first ``length`` bytes to the same places of an empty file; holes stay holes.

    :raises EOFError: the source became shorter.
    :raises OSError: one of the disks is full or broken.
    """
    target.truncate(length)
    progress = _Progress(step, length, notify)
    by_kernel = hasattr(os, "copy_file_range")
    position = 0
    while (position := _next_data(source, position, length)) < length:
        size = min(_data_end(source, position, length) - position, CHUNK)
        done = _copy_by_kernel(source, target, position, size) if by_kernel else 0
        if not done:
            by_kernel = False
            done = _copy_by_hand(source, target, position, size)
        if not done:
            raise EOFError("it became shorter")
        position += done
        progress.reach(position)
    progress.finish()


def difference(one: FileIO, other: FileIO, length: int, step: str, notify: Listener) -> int | None:
    """Where the first ``length`` bytes of two files differ, rounded down to the piece compared.

    Both are read, but for places where both have holes.
    """
    progress = _Progress(step, length, notify)
    buffers = bytearray(CHUNK), bytearray(CHUNK)
    views = memoryview(buffers[0]), memoryview(buffers[1])
    position = 0
    while position < length:
        position = min(_next_data(one, position, length), _next_data(other, position, length))
        size = min(CHUNK, length - position)
        parts = [
            view[: _read_into(file, position, view[:size])]
            for file, view in zip((one, other), views, strict=True)
        ]
        if size and (len(parts[0]) < size or parts[0] != parts[1]):
            return position
        position += size
        progress.reach(position)
    progress.finish()
    return None


def data_bytes(file: FileIO, length: int) -> int:
    """How many of the first ``length`` bytes are not in holes."""
    total = position = 0
    while (position := _next_data(file, position, length)) < length:
        end = _data_end(file, position, length)
        total += end - position
        position = end
    return total


class _Progress:
    """Says how far a step is, in MiB."""

    def __init__(self, step: str, length: int, notify: Listener) -> None:
        self._step, self._length, self._notify = step, length, notify
        self._part = 0
        self._began = self._told = time.monotonic()
        notify(StepStarted(step))

    def reach(self, position: int) -> None:
        part, now = position * _STEPS // self._length, time.monotonic()
        if part > self._part and now - self._told >= _SECONDS:
            self._part, self._told = part, now
            share = position / self._length
            done, total = position // _MIB, self._length // _MIB
            self._notify(StepAdvanced(self._step, done, total, share, "MiB"))

    def finish(self) -> None:
        self._notify(StepFinished(self._step, time.monotonic() - self._began))


def _copy_by_kernel(source: FileIO, target: FileIO, position: int, size: int) -> int:
    """Bytes copied: none where the kernel cannot, between these file systems or at all."""
    try:
        return os.copy_file_range(source.fileno(), target.fileno(), size, position, position)
    except OSError as error:
        if error.errno in _CANNOT:
            return 0
        raise


def _copy_by_hand(source: FileIO, target: FileIO, position: int, size: int) -> int:
    source.seek(position)
    data = source.read(size)
    target.seek(position)
    rest = memoryview(data)
    while rest:
        rest = rest[target.write(rest) :]
    return len(data)


def _read_into(file: FileIO, position: int, view: memoryview) -> int:
    file.seek(position)
    done = 0
    while done < len(view) and (count := file.readinto(view[done:])):
        done += count
    return done


def _next_data(file: FileIO, position: int, length: int) -> int:
    """Where data begin, from ``position`` on; ``length`` where none are left before it."""
    if not hasattr(os, "SEEK_DATA"):
        return position
    try:
        return min(os.lseek(file.fileno(), position, os.SEEK_DATA), length)
    except OSError as error:
        # ENXIO: only a hole is left. All else: a file system that does not know its holes.
        return length if error.errno == errno.ENXIO else position


def _data_end(file: FileIO, position: int, length: int) -> int:
    """Where the data at ``position`` end."""
    if not hasattr(os, "SEEK_HOLE"):
        return length
    try:
        return min(os.lseek(file.fileno(), position, os.SEEK_HOLE), length)
    except OSError:
        return length
