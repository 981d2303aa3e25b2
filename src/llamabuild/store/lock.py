"""A lock that dies with its holder.

The operating system holds it, on an open file: however the holder ends, the lock is gone. (Locks
that consist in the existence of a file outlive a killed holder, and the next builder then waits
for ever.) The lock file is never deleted, since a process could hold the lock on a deleted name
while another one locks its successor.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from llamabuild.events import Listener, Note
from llamabuild.locks import try_lock, unlock
from llamabuild.store.files import explained

__all__ = ["hold", "hold_if_free"]

#: Seconds between two looks at a lock that somebody else holds.
POLL_SECONDS = 0.1
_LONGEST_TEXT = 300


@contextmanager
def hold(path: Path, notify: Listener) -> Iterator[None]:
    """Hold the lock at ``path``; wait for it as long as somebody else does, and say who.

    :raises StoreError: the file cannot be opened, or its file system has no locks.
    """
    told = None
    with _opened(path) as descriptor:
        while not _acquire(descriptor, path):
            holder = _who(descriptor)
            if holder != told:
                notify(Note("info", f"waiting for {holder}, which builds the same module"))
                told = holder
            time.sleep(POLL_SECONDS)
        with _signed(descriptor):
            yield


@contextmanager
def hold_if_free(path: Path) -> Iterator[bool]:
    """Hold the lock at ``path`` if nobody does, and yield whether that went well."""
    with _opened(path) as descriptor:
        if _acquire(descriptor, path):
            with _signed(descriptor):
                yield True
        else:
            yield False


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    with explained("open the lock", path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, path: Path) -> bool:
    with explained("lock", path):
        return try_lock(descriptor)


@contextmanager
def _signed(descriptor: int) -> Iterator[None]:
    """Leave a word for those who wait; what a killed holder left is overwritten."""
    import socket

    began = time.strftime("%Y-%m-%d %H:%M:%S")
    text = f"process {os.getpid()} on {socket.gethostname()} (since {began})"
    _write(descriptor, text)
    try:
        yield
    finally:
        _write(descriptor, "")
        unlock(descriptor)


def _write(descriptor: int, text: str) -> None:
    with suppress(OSError):  # the text is a courtesy
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, text.encode())


def _who(descriptor: int) -> str:
    with suppress(OSError):
        os.lseek(descriptor, 0, os.SEEK_SET)
        text = os.read(descriptor, _LONGEST_TEXT).decode("utf-8", "replace")
        if text:
            return text
    return "another process"
