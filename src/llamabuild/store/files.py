"""What the store asks of a file system, and what to say when it refuses."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from llamabuild.errors import StoreError

__all__ = [
    "check_private",
    "explained",
    "make_private",
    "remove_tree",
    "sync_file",
    "sync_folder",
    "token",
]

_HINTS = {
    errno.ENOSPC: "free some space (llamabuild cache prune), or name another disk with {option}",
    errno.EDQUOT: "free some space (llamabuild cache prune), or name another disk with {option}",
    errno.EACCES: "name a folder that you can write with {option}",
    errno.EPERM: "name a folder that you can write with {option}",
    errno.EROFS: "name a folder that you can write with {option}",
    errno.EEXIST: "move away what is there, or name another place with {option}",
    errno.ENOTDIR: "move away the file that stands for a folder, or name another with {option}",
    errno.ENAMETOOLONG: "name a folder with a shorter path with {option}",
    errno.ENOLCK: "this file system has no locks: name a folder on a local disk with {option}",
    errno.ENOSYS: "this file system has no locks: name a folder on a local disk with {option}",
    errno.EOPNOTSUPP: "this file system has no locks: name a folder on a local disk with {option}",
}


@contextmanager
def explained(doing: str, path: Path, *, option: str = "--cache-dir") -> Iterator[None]:
    """Turn what the operating system refuses into a :class:`StoreError` with advice.

    :param doing: what is attempted on ``path``, to follow the word "cannot".
    :param option: what the user types to have another path.
    """
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"cannot {doing} {path}: {error.strerror or error}",
            hint=_HINTS.get(error.errno or 0, "").format(option=option),
        ) from error


def make_private(folder: Path) -> None:
    """Create ``folder`` for its owner alone; accept one that exists if nobody else can write it.

    :raises StoreError: it cannot be created, or :func:`check_private` refuses it.
    """
    with explained("create the cache folder", folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_private(folder)


def check_private(folder: Path, *, missing_ok: bool = False) -> None:
    """Refuse a folder that others can write.

    Who can write the cache can run code as its user, by way of a module. Windows keeps a user's
    folders private by inherited access lists, which are not looked at.

    :raises StoreError: it belongs to somebody else, or others can write it.
    """
    with explained("read the cache folder", folder):
        try:
            status = folder.stat()
        except FileNotFoundError:
            if missing_ok:
                return
            raise
    if sys.platform == "win32":
        return
    import shlex

    user = os.geteuid()
    # Root may use anybody's folder (a container with a mounted cache), and everybody root's.
    if user != 0 and status.st_uid not in {user, 0}:
        raise StoreError(
            f"the cache folder {folder} belongs to user {status.st_uid}, not to you ({user}), and "
            "its owner could replace the modules in it",
            hint="name a folder of your own with --cache-dir or LLAMABUILD_CACHE_DIR",
        )
    if status.st_mode & 0o022:
        raise StoreError(
            f"other users can write the cache folder {folder}, and so could replace the modules "
            "in it",
            hint=f"chmod go-w {shlex.quote(str(folder))}",
        )


def token() -> str:
    """A short name that nobody else has taken."""
    return os.urandom(4).hex()


def sync_file(path: Path) -> None:
    """Wait until the contents of a file are on the disk."""
    # Windows flushes only through a handle that may write.
    descriptor = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk, where a folder can be opened for that."""
    if sys.platform == "win32":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        # Some network file systems cannot, and keep their names safe in their own way.
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_tree(path: Path) -> None:
    """Delete a folder or file as far as possible; others may be deleting it at the same time."""
    import shutil

    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
