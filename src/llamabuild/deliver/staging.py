"""The file beside a file that will take its place.

It is its own lock: two processes that replace the same file meet at its name, and what a killed
one left is overwritten by the next.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from io import FileIO
from pathlib import Path

from llamabuild.deliver import folders
from llamabuild.errors import DeliveryError
from llamabuild.locks import try_lock
from llamabuild.looking import is_file, listed

__all__ = ["Stage", "abandoned", "explained", "staged"]

_ELSEWHERE = "write the result elsewhere with --output"
_ROOM = f"free some space on that disk, or {_ELSEWHERE}"
_NO_LOCKS = f"this file system has no locks: {_ELSEWHERE}, on a local disk"
_HINTS = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: f"this file system, or a limit, allows no file so large: {_ELSEWHERE}",
    errno.EACCES: f"use a folder that you can write: {_ELSEWHERE}",
    errno.EPERM: f"use a folder that you can write: {_ELSEWHERE}",
    errno.EROFS: _ELSEWHERE,
    errno.ENOLCK: _NO_LOCKS,
    errno.ENOSYS: _NO_LOCKS,
    errno.EOPNOTSUPP: _NO_LOCKS,
    errno.ETXTBSY: "end the llamafile that is running, then try again",
}
_NAME = ".{}.llamabuild"
_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


class Stage:
    """An open, empty, locked file beside its ``target``."""

    def __init__(self, file: FileIO, path: Path, target: Path) -> None:
        self.file = file
        self.path = path
        self._target = target

    def publish(self, like: os.stat_result) -> None:
        """Give the file the owner and mode of another one, and the target's name, at once.

        :raises OSError: the target cannot be replaced, and is as it was.
        """
        if sys.platform != "win32":
            with suppress(PermissionError):  # only root can give a file away
                os.fchown(self.file.fileno(), like.st_uid, like.st_gid)
            os.fchmod(self.file.fileno(), stat.S_IMODE(like.st_mode))
        os.fsync(self.file.fileno())
        if sys.platform == "win32":
            self.file.close()  # an open file cannot be renamed there
        self.path.replace(self._target)
        if sys.platform != "win32":
            folder = os.open(self._target.parent, os.O_RDONLY)
            with suppress(OSError):  # some network file systems keep names safe in their own way
                os.fsync(folder)
            os.close(folder)


@contextmanager
def staged(target: Path) -> Iterator[Stage]:
    """Lend an empty file in the target's folder, which is removed unless it is published.

    :raises DeliveryError: another process is replacing the same target.
    :raises OSError: the folder cannot be written.
    """
    path = target.with_name(_NAME.format(target.name))
    file = _lock(path, target)
    own = os.fstat(file.fileno())
    try:
        file.truncate(0)
        yield Stage(file, path, target)
    finally:
        # By now the name may be another process's.
        with suppress(OSError):
            if os.path.samestat(path.lstat(), own):
                if sys.platform == "win32":
                    file.close()
                path.unlink()
        file.close()


def abandoned(folder: Path) -> tuple[Path, ...]:
    """The stages in a folder that a killed process left; what a living one writes is none."""
    return tuple(
        path
        for path in listed(folder, _NAME.format("*"))
        if is_file(path) and not path.is_symlink() and _free(path)
    )


def _free(path: Path) -> bool:
    """Whether no process holds a stage; one that cannot be asked for is somebody else's."""
    try:
        with FileIO(os.open(path, _FLAGS & ~os.O_CREAT), "r+") as file:
            return try_lock(file.fileno())
    except OSError:
        return False


def _lock(path: Path, target: Path) -> FileIO:
    """Open the stage if no other process holds it, whoever left it there."""
    if path.is_symlink():
        raise _in_the_way(path)
    file = FileIO(os.open(path, _FLAGS, 0o600), "r+")
    try:
        free = _plain(file, path) and try_lock(file.fileno()) and _named(file, path)
    except BaseException:
        file.close()
        raise
    if not free:
        file.close()
        raise DeliveryError(
            f"another process is replacing {target}", hint="wait until it has ended, then try again"
        )
    return file


def _plain(file: FileIO, path: Path) -> bool:
    """Whether emptying the file takes nothing from anybody, and nobody else will own the result."""
    status = os.fstat(file.fileno())
    own = sys.platform == "win32" or status.st_uid == os.geteuid()
    if own and stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
        return True
    raise _in_the_way(path)


def _in_the_way(path: Path) -> DeliveryError:
    return DeliveryError(f"{path} is in the way", hint="move it away, and try again")


def _named(file: FileIO, path: Path) -> bool:
    """Whether the file still has its name: its holder may have published it, as the target."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def explained(doing: str) -> AbstractContextManager[None]:
    """As :func:`llamabuild.deliver.folders.explained`, with advice for a changed llamafile."""
    return folders.explained(doing, _HINTS)
