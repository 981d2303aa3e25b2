"""Locks on open files that die with their holder, on every system."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress

__all__ = ["try_lock", "unlock"]

#: What is locked is one byte far behind the contents, so that others can read those on Windows too.
_LOCKED_BYTE = 1 << 30


def try_lock(descriptor: int) -> bool:
    """Lock an open file for this process alone; whether nobody else had done so.

    :raises OSError: the file system has no locks.
    """
    try:
        _lock(descriptor)
    except OSError as error:
        if error.errno in {errno.EAGAIN, errno.EACCES, errno.EDEADLK}:
            return False
        raise
    return True


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

    def unlock(descriptor: int) -> None:
        """Let the lock go."""
        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        with suppress(OSError):
            msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def unlock(descriptor: int) -> None:
        """Let the lock go."""
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
