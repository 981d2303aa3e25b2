"""The cache's health, and whether there is room for a build."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from llamabuild import probe, store
from llamabuild.doctor.facts import facts
from llamabuild.doctor.model import Line, Status
from llamabuild.doctor.surroundings import Surroundings

__all__ = ["cache", "disk", "memory"]

#: Seconds for comparing the contents of modules; the rest are compared by size.
_SECONDS = 3.0
_GB = 1_000_000_000


def cache(here: Surroundings) -> Iterator[Line]:
    root = store.intended_root(here.cache_dir, here.environ)
    if root is None:
        yield Line(
            "note",
            "there is no home for a cache: modules are kept in a folder for temporary files",
            "export LLAMABUILD_CACHE_DIR=/a/folder/that/lasts",
        )
        return
    if not os.access(_existing(root), os.W_OK | os.X_OK):
        yield Line(
            "note",
            f"the cache {root} cannot be written",
            "export LLAMABUILD_CACHE_DIR=/a/folder/that/lasts",
        )
    found = store.checkup(root, seconds=_SECONDS)
    if found is None:
        yield Line("ok", f"there is no cache yet in {root}")
        return
    unread = f", {found.unread} of them compared by size only" if found.unread else ""
    yield Line(
        "ok", f"{found.sound} sound modules in {root}, {found.size_bytes / _GB:.1f} GB{unread}"
    )
    for damage in found.damaged:
        yield Line(
            "trouble",
            f"the cached module {damage.key} is damaged: {damage.reason}",
            "llamabuild cache verify, and build it again",
        )
    if found.leftover_bytes > _GB:
        yield Line(
            "note",
            f"{found.leftover_bytes / _GB:.1f} GB are left of unfinished builds",
            "llamabuild cache prune --older-than 30d",
        )


def disk(here: Surroundings) -> Iterator[Line]:
    """Room where modules are built, and where compilers put their temporary files."""
    places = {}
    root = store.intended_root(here.cache_dir, here.environ)
    if root is not None:
        places["the cache"] = _existing(root)
    try:
        places["temporary files"] = Path(here.environ.get("TMPDIR") or tempfile.gettempdir())
    except OSError:
        text = "there is no folder for temporary files that can be written: no compiler works"
        yield Line("trouble", text, "export TMPDIR=/a/folder")
    needs = facts()["disk"]
    for what, place in ((what, _existing(place)) for what, place in places.items()):
        free = shutil.disk_usage(place).free
        yield Line(
            _compared(free, needs),
            f"{free / _GB:.1f} GB free for {what} ({place})",
            ""
            if free >= needs["enough"]
            else "llamabuild cache prune --older-than 30d, or another disk with --cache-dir and "
            "TMPDIR",
        )


def memory(here: Surroundings) -> Iterator[Line]:
    limits = probe.host_limits(here.root)
    needs = facts()["memory"]
    yield Line(
        _compared(limits.memory_bytes, needs),
        f"{limits.cores} cores and {limits.memory_bytes / _GB:.1f} GB of memory for a build",
        ""
        if limits.memory_bytes >= needs["enough"]
        else "--jobs 1, more swap, or a container with more memory",
    )


def _compared(value: int, needs: dict[str, int]) -> Status:
    if value < needs["least"]:
        return "trouble"
    return "note" if value < needs["enough"] else "ok"


def _existing(path: Path) -> Path:
    """The folder itself, or the nearest one above it that is there."""
    return next((folder for folder in (path, *path.parents) if folder.is_dir()), Path(path.anchor))
