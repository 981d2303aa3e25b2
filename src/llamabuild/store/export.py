"""Copies of artifacts, for ``--output``."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from llamabuild.errors import StoreError
from llamabuild.store.artifact import Artifact
from llamabuild.store.files import explained, token

__all__ = ["export"]


def export(artifact: Artifact, output: str | Path) -> Path:
    """Copy an artifact's module to ``output`` and return the path of the copy.

    An existing folder, or a path that ends in a separator, takes the module under its own name;
    the latter is created. Any other path is the file's, and its folder must exist, as for a
    compiler's ``-o``. The copy appears at once and whole, and gets the permissions that a linker
    would give it. A link to a file leads to the file; anything that is no plain file is refused.

    :raises StoreError: the destination is refused, or cannot be written.
    """
    with explained("write", Path(output), option="--output"):
        target = _target(artifact, os.fspath(output))
        draft = target.with_name(f".{target.name}.{token()}")
        try:
            # 0777 less the umask, as a linker does.
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
            with (
                artifact.path.open("rb") as module,
                os.fdopen(os.open(draft, flags, 0o777), "wb") as copy,
            ):
                while piece := module.read(1 << 20):
                    copy.write(piece)
                copy.flush()
                os.fsync(copy.fileno())
            draft.replace(target)
        finally:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
    return target


def _target(artifact: Artifact, output: str) -> Path:
    """Return the file to write, all links resolved."""
    path = Path(output)
    if output.endswith(tuple(filter(None, (os.sep, os.altsep)))):
        path.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        path /= artifact.path.name
    try:
        target = path.resolve(strict=path.is_symlink())
    except (OSError, RuntimeError) as error:
        raise StoreError(
            f"{path} is a link that leads nowhere", hint="remove it, or name another --output"
        ) from error
    if not target.parent.is_dir():
        raise StoreError(
            f"cannot write {target}: there is no folder {target.parent}",
            hint="create it, or end the path with / to have a folder created",
        )
    if target.exists() and not stat.S_ISREG(target.stat().st_mode):
        raise StoreError(
            f"{target} is neither a plain file nor a folder", hint="name another --output"
        )
    return target
