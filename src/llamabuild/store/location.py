"""Where the cache is."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from llamabuild.errors import StoreError
from llamabuild.events import Listener, Note, silent
from llamabuild.looking import is_folder

__all__ = ["cache_root", "intended_root"]


def cache_root(option: str | None, environ: Mapping[str, str], notify: Listener = silent) -> Path:
    """Return the cache folder as an absolute path; nothing is created.

    In this order: ``option`` (``--cache-dir``), LLAMABUILD_CACHE_DIR, the platform's cache folder
    for this user. Where that last one cannot be written (a read-only container, a user without a
    home) it is a folder of this user below the folder for temporary files, and ``notify`` is told.
    A folder that was asked for by name is never replaced by another.

    :raises StoreError: there is not even a folder for temporary files.
    """
    chosen = _chosen(option, environ)
    if chosen is not None:
        return chosen
    home = _platform_folder(environ)
    if home is not None and _can_write(home):
        return home
    fallback = _temporary_folder()
    reason = f"{home} cannot be written" if home is not None else "there is no home folder"
    notify(
        Note(
            "warning",
            f"{reason}, so the cache is in {fallback}; --cache-dir names one that lasts",
        )
    )
    return fallback


def intended_root(option: str | None, environ: Mapping[str, str]) -> Path | None:
    """Say where the cache belongs, whether or not it can be written.

    None where there is no home: :func:`cache_root` would take a folder for temporary files.
    """
    return _chosen(option, environ) or _platform_folder(environ)


def _chosen(option: str | None, environ: Mapping[str, str]) -> Path | None:
    chosen = option or environ.get("LLAMABUILD_CACHE_DIR")
    if not chosen:
        return None
    with suppress(RuntimeError):  # a ~ without a home stays as it is
        return Path(chosen).expanduser().absolute()
    return Path(chosen).absolute()


def _platform_folder(environ: Mapping[str, str]) -> Path | None:
    if sys.platform in {"win32", "darwin"}:
        import platformdirs

        return platformdirs.user_cache_path("llamabuild", appauthor=False)
    # The XDG base directory specification: a relative path is to be ignored.
    for variable, below in (("XDG_CACHE_HOME", ""), ("HOME", ".cache")):
        folder = Path(environ.get(variable, ""))
        if folder.is_absolute():
            return folder / below / "llamabuild"
    return None


def _can_write(folder: Path) -> bool:
    """Whether this user can write a folder, or create it."""
    there = next((place for place in (folder, *folder.parents) if os.path.lexists(place)), folder)
    return is_folder(there) and os.access(there, os.W_OK | os.X_OK)


def _temporary_folder() -> Path:
    import tempfile

    user = str(os.getuid()) if sys.platform != "win32" else "user"
    try:
        return Path(tempfile.gettempdir()) / f"llamabuild-{user}"
    except FileNotFoundError as error:
        raise StoreError(
            f"there is no place for a cache: no home that can be written, and {error.strerror}",
            hint="name a folder that you can write with --cache-dir or LLAMABUILD_CACHE_DIR",
        ) from error
