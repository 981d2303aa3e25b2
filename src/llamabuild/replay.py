"""The same command again, answered without starting over.

A command that was answered from the cache leaves a record: what it printed, the environment
variables that it read, and the identity of every file and folder that the answer depends on (the
source, the toolkits, the folders where toolkits and compilers are looked for, the module). While
all of these are the same, the same command line in the same folder has the same answer, and giving
it costs a few dozen ``stat`` calls. Anything else, and the command runs as usual.

This module is all that a warm start imports, so it imports almost nothing.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress

from llamabuild.memo import identity, load, save

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Recorded", "recall", "record"]

#: File systems stamp changes with a clock that may be this many nanoseconds behind.
_CLOCK_TICK = 50_000_000


class Recorded(Mapping[str, str]):
    """An environment that remembers which variables were read, present or not.

    Who takes all of them (to start a program with them, most often) may depend on any: then
    ``asked`` is None, and the command leaves no record. The next one will, because what programs
    have told is remembered by :class:`~llamabuild.memo.Memo`.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.began = time.time_ns()
        self.asked: dict[str, str | None] | None = {}
        self._environ = dict(environ)

    def __getitem__(self, name: str) -> str:
        if self.asked is not None:
            self.asked[name] = self._environ.get(name)
        return self._environ[name]

    def __iter__(self) -> Iterator[str]:
        self.asked = None
        return iter(self._environ)

    def __len__(self) -> int:
        return len(self._environ)


def recall(argv: Sequence[str], environ: Mapping[str, str]) -> tuple[str, str] | None:
    """Return what the same command printed on stdout and stderr, or None if anything may differ."""
    with suppress(OSError):
        base = _base(argv, environ)
        folder = os.path.join(base, "replay")
        if not all(map(_private, (os.path.dirname(base), base, folder))):
            return None  # for the store to refuse
        kept = load(folder, _command(argv))
        if kept is None:
            return None
        if any(environ.get(name) != value for name, value in kept["environ"].items()):
            return None
        if any(identity(file) != seen for file, seen in kept["files"].items()):
            return None
        for file in kept["used"]:
            with suppress(OSError):  # a read-only cache answers, too
                os.utime(file)
        return kept["stdout"], kept["stderr"]
    return None


def record(
    argv: Sequence[str],
    environ: Recorded,
    *,
    base: str,
    files: Iterable[str],
    used: Sequence[str],
    stdout: str,
    stderr: str,
) -> None:
    """Keep an answer, unless something changed while it was worked out.

    :param base: the store's own folder; one that cannot be written keeps nothing.
    :param files: everything that the answer depends on, beside the folders of PATH: a program
        that is installed there may come before the one that was found.
    :param used: the files whose times say when the store's entries were last used.
    """
    if environ.asked is None:
        return
    with suppress(OSError):
        # Identities are taken now; the answer was worked out from what there was before.
        path = environ.get("PATH", "").split(os.pathsep)
        seen = {file: identity(file) for file in (*files, *path)}
        if any(_changed_since(environ.began, file) for file in seen):
            return
        kept = {
            "environ": environ.asked,
            "files": seen,
            "used": list(used),
            "stdout": stdout,
            "stderr": stderr,
        }
        save(os.path.join(base, "replay"), _command(argv), kept)


def _command(argv: Sequence[str]) -> list[object]:
    """What is asked, and of whom: ``~`` depends on the home, toolkits in wheels on ``sys.path``."""
    return [sys.executable, sys.path, os.path.expanduser("~"), os.getcwd(), list(argv)]


def _base(argv: Sequence[str], environ: Mapping[str, str]) -> str:
    """The store's folder where the cache is named in one of the usual ways.

    Else it is some other folder, in which there is no record of such a command.
    """
    cache = environ.get("LLAMABUILD_CACHE_DIR")
    words = iter(argv)
    for word in words:
        if word == "--cache-dir":
            cache = next(words, None)
        elif word.startswith("--cache-dir="):
            cache = word.removeprefix("--cache-dir=")
    if not cache:
        home = environ.get("XDG_CACHE_HOME") or os.path.join(environ.get("HOME", ""), ".cache")
        cache = os.path.join(home, "llamabuild")
    return os.path.join(os.path.expanduser(cache), "v1")


def _private(folder: str) -> bool:
    """Whether only its user (or root) can write a folder: the rule of the store's own folders."""
    status = os.stat(folder)
    if sys.platform == "win32":
        return True
    user = os.geteuid()
    return not status.st_mode & 0o022 and (user == 0 or status.st_uid in {user, 0})


def _changed_since(moment: int, file: str) -> bool:
    try:
        status = os.stat(file)
    except (OSError, ValueError):
        return False
    # No program sets the time of status change; Windows means the creation by it.
    changed = status.st_mtime_ns if sys.platform == "win32" else status.st_ctime_ns
    return changed >= moment - _CLOCK_TICK
