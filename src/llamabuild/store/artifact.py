"""An entry of the store, and how it is judged."""

from __future__ import annotations

import hashlib
import json
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamabuild.memo import identity

__all__ = ["KEY", "LOG", "MANIFEST", "Artifact", "Damage", "read_entry", "sha256"]

#: The name of an entry: its key.
KEY = re.compile(r"[0-9a-f]{16,64}")
MANIFEST = "manifest.json"
LOG = "build.log"


@dataclass(frozen=True)
class Artifact:
    """A module in the store.

    ``manifest`` is a JSON object: what the builder said of the module, and ``key``, ``file``,
    ``sha256``, ``size_bytes`` and ``created_at`` (UTC, ISO 8601), which the store adds.
    """

    key: str
    path: Path
    manifest: Mapping[str, Any]


@dataclass(frozen=True)
class Damage:
    """An entry that is not what was published: where it is, and what is wrong with it."""

    key: str
    folder: Path
    reason: str


def sha256(path: Path) -> str:
    """Return the digest of a file's contents, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_entry(folder: Path, digest: Callable[[Path], str] = sha256) -> Artifact | Damage | None:
    """Read the entry in ``folder``, whose name is its key; None if there is no such folder.

    :param digest: tells the SHA-256 of the module (from memory, if it has not been touched).
    """
    while True:
        before = identity(folder)
        entry = _read(folder, digest)
        # A builder may have put another entry in its place between our look at the manifest and
        # our look at the module: that is no damage.
        if not isinstance(entry, Damage) or identity(folder) == before:
            return entry


def _read(folder: Path, digest: Callable[[Path], str]) -> Artifact | Damage | None:
    if not folder.is_dir():
        return None
    key = folder.name
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        path = folder / _plain_name(manifest["file"])
        status = path.lstat()
        if manifest["key"] != key:
            reason = f"{MANIFEST} is that of {manifest['key']}"
        elif not stat.S_ISREG(status.st_mode):
            reason = f"{path.name} is not a plain file"
        elif status.st_size != manifest["size_bytes"]:
            reason = f"{path.name} has {status.st_size} bytes instead of {manifest['size_bytes']}"
        elif digest(path) != manifest["sha256"]:
            reason = f"the contents of {path.name} have changed"
        else:
            return Artifact(key, path, manifest)
    except OSError as error:
        reason = f"{Path(error.filename or folder).name}: {error.strerror or error}"
    except (ValueError, LookupError, TypeError, RecursionError):
        reason = f"{MANIFEST} is not a manifest"
    return Damage(key, folder, reason)


def _plain_name(name: str) -> str:
    """Return a file name that stays in its folder, or raise ValueError."""
    if name in {"", ".", ".."} or Path(name).name != name:
        raise ValueError(name)
    return name
