"""A look at the cache that changes nothing in it, not even the time of a last use."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from llamabuild.store.artifact import KEY, Damage, read_entry, sha256
from llamabuild.store.files import check_private, explained

__all__ = ["Checkup", "checkup"]


@dataclass(frozen=True)
class Checkup:
    """What a cache holds.

    ``unread`` of the ``sound`` entries have the right size, but their contents were not compared:
    the time was up. ``leftover_bytes`` are what dead builds and damaged entries still take.
    """

    sound: int
    size_bytes: int
    damaged: tuple[Damage, ...]
    unread: int
    leftover_bytes: int


def checkup(root: Path, *, seconds: float) -> Checkup | None:
    """Look at every entry of the cache in ``root``; None where there is no cache yet.

    :param seconds: after so many, the contents of further entries are not compared.
    :raises StoreError: the cache cannot be read, belongs to somebody else or others can write it.
    """
    base = root.absolute() / "v1"
    deadline = time.monotonic() + seconds
    unread: list[Path] = []

    def digest(path: Path) -> str:
        if time.monotonic() < deadline:
            return sha256(path)
        unread.append(path)
        return ""

    with explained("read the cache folder", root):
        if not base.is_dir():
            return None
    check_private(root)
    check_private(base)
    sound, size, damaged = 0, 0, []
    with explained("read", base):
        for folder in sorted(base.iterdir()):
            if not KEY.fullmatch(folder.name):
                continue
            entry = read_entry(folder, digest)
            if isinstance(entry, Damage) and not any(folder in path.parents for path in unread):
                damaged.append(entry)
            elif entry is not None:
                sound += 1
                size += _bytes_below(folder)
    leftover = sum(_bytes_below(base / name) for name in ("staging", "damaged"))
    return Checkup(sound, size, tuple(damaged), len(unread), leftover)


def _bytes_below(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
