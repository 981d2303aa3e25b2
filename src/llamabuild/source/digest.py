"""The identity of a source: SHA-256 over relative names and contents, whatever the folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

__all__ = ["of_contents", "of_folder"]


def of_contents(contents: Mapping[str, bytes]) -> str:
    """Digest of files by relative name (``/`` between folders)."""
    return _combine((name, hashlib.sha256(data).digest()) for name, data in contents.items())


def of_folder(root: Path, names: Iterable[str]) -> str:
    """The same digest of files below ``root``.

    :raises OSError: one of them cannot be read.
    """
    return _combine((name, _of_file(root / name)) for name in names)


def _of_file(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _combine(parts: Iterable[tuple[str, bytes]]) -> str:
    total = hashlib.sha256()
    # A name cannot hold a NUL and a part has a fixed length, so no two lists look alike.
    for name, part in sorted(parts):
        total.update(os.fsencode(name) + b"\0" + part)
    return total.hexdigest()
