"""Which source is meant when none is named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llamabuild.errors import SourceError
from llamabuild.looking import is_file, is_folder
from llamabuild.source.bundled import BUNDLED
from llamabuild.source.llamafile import looks_classic

__all__ = ["Found", "find_source", "newest_unpacked"]

_VARIABLE = "LLAMABUILD_SOURCE"


@dataclass(frozen=True)
class Found:
    """A source for :func:`open_source`, and a sentence that says why this one.

    ``watched`` are the folders that were looked into: another answer would change one of them.
    """

    spec: str
    reason: str
    watched: tuple[Path, ...] = ()


def find_source(environ: Mapping[str, str], cwd: Path) -> Found:
    """Return the one source that can be meant.

    Order: ``LLAMABUILD_SOURCE``; the one llamafile in the working folder; the newest release in
    llamafile's own folder that left its sources there; our own kernels.

    :raises SourceError: several llamafiles are candidates; they are listed.
    """
    if spec := environ.get(_VARIABLE, "").strip():
        return Found(spec, f"{_VARIABLE} names it")
    here = sorted(
        path
        for pattern in ("*.llamafile", "*.llamafile.exe")
        for path in cwd.glob(pattern)
        if is_file(path)
    )
    if len(here) > 1:
        listed = "".join(f"\n  {path}" for path in here)
        raise SourceError(
            f"there are {len(here)} llamafiles in the working folder:{listed}",
            hint=f"name one of them with --source or {_VARIABLE}",
        )
    if here:
        return Found(str(here[0]), "it is the only llamafile in the working folder", (cwd,))
    own = Path(environ.get("HOME") or environ.get("USERPROFILE") or cwd, ".llamafile")
    watched = (cwd, own, *_places(own))
    if folder := newest_unpacked(own):
        return Found(str(folder), "llamafile left its sources there", watched)
    return Found(BUNDLED, "no llamafile was found here or in ~/.llamafile", watched)


def _places(own: Path) -> tuple[Path, ...]:
    return (own / "v", *_newest_first(own / "v"))


def newest_unpacked(own: Path) -> Path | None:
    """Where the newest release left its sources below llamafile's folder ``.llamafile``.

    Releases from 0.8.5 on have a folder each, older ones share ``own`` itself.
    """
    candidates = (*_newest_first(own / "v"), own)
    return next((folder for folder in candidates if looks_classic(folder)), None)


def _newest_first(folder: Path) -> list[Path]:
    numbered = []
    for path in folder.iterdir() if is_folder(folder) else ():
        parts = path.name.split(".")
        if all(part.isascii() and part.isdigit() for part in parts):
            numbered.append(([int(part) for part in parts], path))
    return [path for _, path in sorted(numbered, reverse=True)]
