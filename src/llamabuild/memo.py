"""What a probe found, remembered for as long as the files it looked at are the same.

A warm start imports this module, so it imports almost nothing.
"""

from __future__ import annotations

import json
import os
import zlib
from contextlib import suppress

from llamabuild import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:  # a warm start must not wait for typing and pathlib
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import Any

__all__ = ["Memo", "identity", "load", "save"]


def identity(path: str | Path) -> str:
    """Words that change when the file or folder at ``path`` does, or appears, or goes away.

    They are made of its size, inode, and times of modification and of status change: enough to
    notice that a compiler was upgraded or a source edited (even if the editor put the
    modification time back), and cheap enough to ask on every start. A folder changes when a name
    in it comes or goes. A link is what it leads to.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return f"{path}: absent"
    numbers = (status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
    return f"{path}: {numbers}"


class Memo:
    """A folder of remembered answers. Without a folder, or with a read-only one, it forgets."""

    def __init__(self, folder: str | Path | None) -> None:
        self._folder = folder

    def recall(
        self,
        question: str,
        files: Sequence[str | Path],
        ask: Callable[[], Any],
        *,
        holds: Callable[[Any], bool] = lambda _: True,
    ) -> Any:
        """Return the remembered answer to ``question``, else ``ask()`` and remember.

        What ``ask`` raises is not remembered.

        :param question: what is asked, with everything that the answer depends on beside
            ``files`` (an option, an environment variable).
        :param files: the answer holds while all of these keep their identity.
        :param ask: computes the answer, a JSON value. It is returned as JSON has it (a tuple
            as a list), remembered or not.
        :param holds: whether a remembered answer still holds, where that is not for its files alone
            to say.
        """
        if self._folder is None:
            return json.loads(json.dumps(ask()))
        subject = [question, *map(str, files)]
        seen = [identity(path) for path in files]
        kept = load(self._folder, subject)
        if kept is None or kept["seen"] != seen or not holds(kept["answer"]):
            kept = {"seen": seen, "answer": json.loads(json.dumps(ask()))}
            save(self._folder, subject, kept)
        return kept["answer"]


def load(folder: str | Path, subject: Any) -> Any:
    """Return what this version saved about ``subject``, or None. What is damaged is not there."""
    with suppress(OSError, ValueError):
        with open(_place(folder, subject), "rb") as file:
            checksum, text = file.read().split(b"\n", 1)
        if int(checksum, 16) == zlib.crc32(text):
            about, kept = json.loads(text)
            if about == _about(subject):
                return kept
    return None


def save(folder: str | Path, subject: Any, kept: Any) -> None:
    """Save a JSON value about ``subject``, another one; a folder that is read-only keeps nothing.

    A reader sees the old value or the new one, whoever else is writing.
    """
    place = _place(folder, subject)
    draft = f"{place}.{os.urandom(4).hex()}"
    text = json.dumps([_about(subject), kept]).encode()
    with suppress(OSError):
        os.makedirs(folder, mode=0o700, exist_ok=True)
        try:
            with open(draft, "wb") as file:
                file.write(b"%08x\n%b" % (zlib.crc32(text), text))
            os.replace(draft, place)
        finally:
            with suppress(OSError):
                os.unlink(draft)


def _about(subject: Any) -> str:
    return json.dumps([__version__, subject])


def _place(folder: str | Path, subject: Any) -> str:
    # Two subjects of one name would take turns, as a file says what it is about.
    return os.path.join(folder, f"{zlib.crc32(_about(subject).encode()):08x}")
