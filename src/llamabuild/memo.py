"""What a probe found, remembered for as long as the files it looked at are the same.

A file's identity is its path, size, modification time and inode: enough to notice that a compiler
was upgraded or a source edited, and cheap enough to ask on every start.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["Memo", "identity"]

Identity = tuple[str, int, int, int]


def identity(path: str | Path) -> Identity:
    """(path, size in bytes, modification time in nanoseconds, inode); -1 thrice if absent."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return (str(path), -1, -1, -1)
    return (str(path), status.st_size, status.st_mtime_ns, status.st_ino)


class Memo:
    """A folder of remembered answers. Without a folder, or with a read-only one, it forgets."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def recall(self, question: str, files: Sequence[Path], ask: Callable[[], Any]) -> Any:
        """Return the remembered answer to ``question``, else ``ask()`` and remember.

        :param question: what is asked, with everything that the answer depends on beside
            ``files`` (an option, an environment variable).
        :param files: the answer holds while all of these keep their identity.
        :param ask: computes the answer, a value that JSON can hold.
        """
        identities = [list(identity(path)) for path in files]
        name = hashlib.sha256(json.dumps([question, identities]).encode()).hexdigest()[:32]
        if self._folder is None:
            return ask()
        entry = self._folder / f"{name}.json"
        with suppress(OSError, ValueError, KeyError, TypeError):
            return json.loads(entry.read_bytes())["answer"]
        answer = ask()
        with suppress(OSError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft = entry.with_suffix(f".{os.getpid()}.tmp")
            draft.write_text(json.dumps({"question": question, "files": identities, "answer": answer}))
            os.replace(draft, entry)
        return answer
