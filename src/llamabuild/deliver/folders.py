"""Is it safe to write here? Folders and files that are somebody else's, or links, are refused."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from llamabuild.errors import DeliveryError

__all__ = ["check_file", "check_folder", "explained", "like", "make_folder"]

_HINTS = {
    errno.ENOSPC: "free some space on that disk",
    errno.EDQUOT: "free some space on that disk",
    errno.EACCES: "give yourself the right to write there",
    errno.EPERM: "give yourself the right to write there",
    errno.EROFS: "the file system is read-only: --embed puts the module inside a llamafile, which "
    "may lie elsewhere",
    errno.ENOTDIR: "move away the file that stands for a folder",
}


def check_folder(folder: Path) -> str:
    """Refuse a folder that somebody else controls; return a sentence if a link leads to it.

    The folder itself may be missing. What is above the folder for llamafile's own things
    (``.llamafile``) is its user's business.

    :raises DeliveryError: it, or a link on the way to it, belongs to another user; or it is none.
    """
    parts = [folder, *folder.parents]
    own = next((part for part in parts if part.name == ".llamafile"), folder)
    note = ""
    for part in reversed([p for p in parts if p == own or own in p.parents]):
        try:
            status = part.lstat()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise DeliveryError(f"cannot look at {part}: {error.strerror or error}") from error
        _check_owner(part, status)
        if stat.S_ISLNK(status.st_mode):
            note = f"{part} is a link to {part.resolve()}"
            if not part.is_dir():
                raise DeliveryError(f"{note}, where there is no folder", hint=f"remove {part}")
            _check_owner(part.resolve(), part.stat())
        elif not stat.S_ISDIR(status.st_mode):
            raise DeliveryError(f"{part} is not a folder", hint=f"move {part} away")
    return note


def check_file(path: Path) -> None:
    """Refuse to replace what is not a plain file of this user.

    A link inside its folder is replaced by a file; nothing is ever written through one.

    :raises DeliveryError: it is another user's, a folder or a device, or a link out of its folder.
    """
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise DeliveryError(f"cannot look at {path}: {error.strerror or error}") from error
    _check_owner(path, status)
    if stat.S_ISLNK(status.st_mode):
        target = path.resolve()
        if target.parent != path.parent.resolve():
            raise DeliveryError(
                f"{path} is a link out of its folder, to {target}",
                hint=f"if you made it: remove it (the file that it names stays), {_remove(path)}",
            )
    elif not stat.S_ISREG(status.st_mode):
        raise DeliveryError(f"{path} is neither a file nor a link to one", hint="move it away")


def make_folder(folder: Path) -> None:
    """Create a folder as llamafile does (0755 less the umask), with those above it."""
    with explained(f"create {folder}"):
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)


def like(path: Path, mode: int = 0o755) -> os.stat_result:
    """Owner and mode for a new file at ``path``: it is the owner's of its folder."""
    folder = path.parent.stat()
    return os.stat_result((stat.S_IFREG | mode, *tuple(folder)[1:10]))


@contextmanager
def explained(doing: str, hints: Mapping[int, str] = _HINTS) -> Iterator[None]:
    """Turn what the operating system refuses into a :class:`DeliveryError` with advice.

    :param doing: what is attempted, to follow the word "cannot".
    :param hints: the advice, by the number of the system's error.
    """
    try:
        yield
    except OSError as error:
        raise DeliveryError(
            f"cannot {doing}: {error.strerror or error}", hint=hints.get(error.errno or 0, "")
        ) from error


def _check_owner(path: Path, status: os.stat_result) -> None:
    if sys.platform == "win32":
        return
    user = os.geteuid()
    if status.st_uid != user:
        raise DeliveryError(
            f"{path} belongs to {_name(status.st_uid)}, not to you ({_name(user)})",
            hint=f"run llamabuild as {_name(status.st_uid)}, whose llamafile it would be",
        )


def _name(user: int) -> str:
    if sys.platform != "win32":
        import pwd

        try:
            return pwd.getpwuid(user).pw_name
        except KeyError:
            pass
    return f"user {user}"


def _remove(path: Path) -> str:
    import shlex

    return f"rm {shlex.quote(str(path))}"
