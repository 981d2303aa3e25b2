"""Verified copies of sources in the cache: one folder each, named by the digest of its contents.

A copy is made in a folder of its own beside the others and put in place by one rename, so a
reader sees a whole copy or none, and two that make the same one do not disturb each other.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from llamabuild.errors import StoreError
from llamabuild.memo import Memo
from llamabuild.source import digest as digests

__all__ = ["intact", "publish", "staging", "write"]

_STAGING = ".staging-"
#: Seconds after which a staging folder belongs to nobody: its maker was killed.
_ABANDONED = 24 * 3600
_ATTEMPTS = 5


@contextmanager
def staging(scratch: Path) -> Iterator[Path]:
    """Lend an empty folder in ``scratch``, removed afterwards with all that is left in it.

    :raises StoreError: the file system is full, read-only or broken, now or in the block.
    """
    try:
        scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove_abandoned(scratch)
        folder = Path(tempfile.mkdtemp(prefix=_STAGING, dir=scratch))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise StoreError(
            f"a copy of the source cannot be kept in {scratch}: {error.strerror or error}",
            hint="make room on that disk, or name another folder with --cache-dir",
        ) from error


def write(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write files by relative name."""
    for name, data in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def publish(folder: Path, names: Iterable[str], scratch: Path, digest: str) -> Path:
    """Put the files ``names`` of ``folder`` in place as ``scratch/digest`` and return that.

    :param folder: below a folder that :func:`staging` lent; the files are moved out of it.
    :raises OSError: the file system is in trouble.
    """
    wanted = tuple(names)
    final = scratch / digest
    with tempfile.TemporaryDirectory(prefix=_STAGING, dir=scratch) as private:
        whole = Path(private, "new")
        for name in wanted:
            (whole / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).replace(whole / name)
        for attempt in range(_ATTEMPTS):
            try:
                whole.rename(final)
                break
            except OSError:
                if _whole(final, wanted, digest):
                    break  # another one was faster, with the same contents
                if attempt == _ATTEMPTS - 1:
                    raise
                with suppress(OSError):  # damaged: out of the way, unless another one did it
                    final.rename(Path(private, f"damaged-{attempt}"))
    return final


def intact(scratch: Path, digest: str, names: tuple[str, ...], memo: Memo) -> bool:
    """Whether ``scratch/digest`` holds exactly ``names`` with the right contents.

    Once verified, a copy costs a ``stat`` a file for as long as nobody touches it.
    """
    final = scratch / digest
    files = [final / name for name in names]
    watched = [final, *sorted({file.parent for file in files}), *files]
    return bool(memo.recall(f"intact {digest}", watched, lambda: _whole(final, names, digest)))


def _whole(folder: Path, names: tuple[str, ...], digest: str) -> bool:
    try:
        present = {
            path.relative_to(folder).as_posix()
            for path in folder.rglob("*")
            if path.is_symlink() or not path.is_dir()
        }
        return present == set(names) and digests.of_folder(folder, names) == digest
    except OSError:
        return False


def _remove_abandoned(scratch: Path) -> None:
    for entry in os.scandir(scratch):
        with suppress(OSError):
            if entry.name.startswith(_STAGING) and time.time() - entry.stat().st_mtime > _ABANDONED:
                shutil.rmtree(entry.path, ignore_errors=True)
