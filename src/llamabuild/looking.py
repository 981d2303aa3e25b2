"""Looking for files where a user may not look.

Before Python 3.14 ``Path.is_file`` and its kin raise PermissionError below a folder that may not be
searched: root's own in a PATH that ``su`` left as it was, for example. What cannot be seen is not
there for us.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["is_file", "is_folder", "listed"]


def is_file(path: Path) -> bool:
    """Whether there is a file that can be seen."""
    return os.path.isfile(path)  # noqa: PTH113 -- which answers and does not raise


def is_folder(path: Path) -> bool:
    """Whether there is a folder that can be seen."""
    return os.path.isdir(path)  # noqa: PTH112


def listed(folder: Path, pattern: str) -> list[Path]:
    """What of a folder can be seen and has a name like ``pattern``, in order."""
    try:
        return sorted(folder.glob(pattern))
    except OSError:
        return []
