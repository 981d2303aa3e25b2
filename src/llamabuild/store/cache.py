"""The store itself: look up, claim, publish; list, verify, prune."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamabuild.errors import StoreError
from llamabuild.events import Listener, Note, silent
from llamabuild.memo import Memo
from llamabuild.store.artifact import KEY, LOG, MANIFEST, Artifact, Damage, read_entry, sha256
from llamabuild.store.files import (
    check_private,
    explained,
    make_private,
    remove_tree,
    sync_file,
    sync_folder,
    token,
)
from llamabuild.store.lock import hold, hold_if_free

__all__ = ["Entry", "Staging", "Store"]

#: Backup programs that know it leave a folder with this file alone: https://bford.info/cachedir/
_CACHEDIR_TAG = "Signature: 8a477f597d28d172789f06886806bc55\n# Made by llamabuild.\n"


@dataclass(frozen=True)
class Staging:
    """The folders of one builder, who alone holds ``key``; all is gone when the claim ends.

    ``entry`` is what will be published (the module goes here), ``work`` is scratch space, and
    ``log`` is the file to write the build's log to: published with the module, and left where it
    is when the build fails.
    """

    key: str
    entry: Path
    work: Path
    log: Path


@dataclass(frozen=True)
class Entry:
    """An artifact with the size of all its files in bytes and its last use (seconds since 1970)."""

    artifact: Artifact
    size_bytes: int
    last_used: float


class Store:
    """The modules under ``root``; where nothing was ever written, there are none.

    :raises StoreError: ``root`` belongs to somebody else, or others can write it. Every method
        raises it for what the file system refuses.
    """

    def __init__(self, root: Path) -> None:
        #: Everything lives here; a store of another layout would be v2, beside.
        self.base = root.absolute() / "v1"
        for folder in (self.base.parent, self.base):
            check_private(folder, missing_ok=True)
        self._digests = Memo(self.base / "digests")

    def create(self) -> Path:
        """Return :attr:`base`, created for its owner alone: for those who are about to write."""
        for folder in (self.base.parent, self.base):
            make_private(folder)
        tag = self.base / "CACHEDIR.TAG"
        if not tag.exists():
            with suppress(OSError):
                tag.write_text(_CACHEDIR_TAG)
        return self.base

    def lookup(self, key: str, notify: Listener = silent) -> Artifact | None:
        """Return the artifact of ``key``, or None; a damaged one is reported and is None, too.

        The digest is computed again only if the file is not the one that was seen last (size,
        times, inode). Nothing is written but the time of this use.
        """
        entry = read_entry(self._folder_of(key), self._digest)
        if isinstance(entry, Damage):
            _report(entry, notify)
            return None
        if entry is not None:
            with suppress(OSError):  # a read-only cache answers, too
                os.utime(entry.path.with_name(MANIFEST))
        return entry

    def find(self, prefix: str, notify: Listener = silent) -> Artifact:
        """Return the artifact whose key begins with ``prefix``.

        :raises StoreError: there is none, or more than one.
        """
        found = [key for key in self._keys() if key.startswith(prefix)]
        if len(found) > 1:
            raise StoreError(
                f"{len(found)} cached modules begin with {prefix!r}: {', '.join(sorted(found))}",
                hint="write more of the key",
            )
        artifact = self.lookup(found[0], notify) if found else None
        if artifact is None:
            raise StoreError(
                f"no cached module begins with {prefix!r}", hint="llamabuild cache list"
            )
        return artifact

    @contextmanager
    def claim(self, key: str, notify: Listener = silent) -> Iterator[Staging]:
        """Be the only builder of ``key``; wait for another one, and say for whom.

        A damaged entry of this key is set aside, and what dead builders left is removed. Look the
        key up again inside: the one waited for has probably published it.
        """
        target = self._folder_of(key)
        with hold(self._lock_of(key), notify):
            self._sweep_staging(mine=key)
            entry = read_entry(target, self._digest)
            if isinstance(entry, Damage):
                self._set_aside(entry, notify)
            folder = self._folder("staging") / f"{key}.{token()}"
            staging = Staging(
                key, folder / "entry", folder / "work", self._folder("logs") / f"{key}.log"
            )
            try:
                with explained("create", folder):
                    staging.log.unlink(missing_ok=True)
                    staging.entry.mkdir(mode=0o700, parents=True)
                    staging.work.mkdir(mode=0o700)
                yield staging
            finally:
                remove_tree(folder)

    def publish(self, staging: Staging, module: str, manifest: Mapping[str, Any]) -> Artifact:
        """Make ``staging.entry`` the entry of its key, in place of an earlier one.

        :param module: the name of the module's file in ``staging.entry``.
        :param manifest: a JSON object to keep with it; see :class:`Artifact` for what is added.
        """
        path = staging.entry / module
        with explained("store", path):
            digest = sha256(path)
            complete = {
                **manifest,
                "key": staging.key,
                "file": module,
                "sha256": digest,
                "size_bytes": path.stat().st_size,
                "created_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            }
            if staging.log.exists():
                staging.log.replace(staging.entry / LOG)
            text = json.dumps(complete, indent=2, ensure_ascii=False)
            (staging.entry / MANIFEST).write_text(text + "\n", encoding="utf-8")
            for file in staging.entry.iterdir():
                sync_file(file)
            sync_folder(staging.entry)
            target = self._folder_of(staging.key)
            if target.exists():
                target.rename(staging.entry.with_name("replaced"))
            staging.entry.rename(target)
            sync_folder(self.base)
        path = target / module
        self._digests.recall("sha256", [path], lambda: digest)
        return Artifact(staging.key, path, complete)

    def entries(self, notify: Listener = silent) -> tuple[Entry, ...]:
        """Return the sound entries, the latest used first; damaged ones are reported."""
        found = []
        for key in self._keys():
            artifact = read_entry(self._folder_of(key), self._digest)
            if isinstance(artifact, Damage):
                _report(artifact, notify)
            elif artifact is not None:
                with suppress(FileNotFoundError):  # removed while we read
                    found.append(_measured(artifact))
        return tuple(sorted(found, key=lambda entry: entry.last_used, reverse=True))

    def verify(self, notify: Listener = silent) -> tuple[Damage, ...]:
        """Read every module in full; set the damaged ones aside and return what was wrong."""
        return self._retire(sha256, notify)

    def prune(
        self,
        *,
        older_than: float | None = None,
        max_bytes: int | None = None,
        keep: int = 0,
        notify: Listener = silent,
    ) -> tuple[Entry, ...]:
        """Remove entries that were not used lately, and all that is of no use; return the former.

        Of no use are damaged entries and what dead or failed builds left behind. What is being
        built is left alone.

        :param older_than: remove what was not used for so many seconds.
        :param max_bytes: going from the latest used to the longest unused, keep what fits.
        :param keep: so many of the latest used are kept in any case.
        """
        self._retire(self._digest, notify)
        now = time.time()
        removed = []
        total = 0
        for rank, entry in enumerate(self.entries()):
            total += entry.size_bytes
            too_old = older_than is not None and now - entry.last_used > older_than
            too_much = max_bytes is not None and total > max_bytes
            if rank >= keep and (too_old or too_much) and self._remove(entry.artifact.key, notify):
                removed.append(entry)
                total -= entry.size_bytes
        if self.base.exists():
            self._sweep()
        return tuple(removed)

    def clear(self, notify: Listener = silent) -> tuple[Entry, ...]:
        """Remove every entry that nobody is building, and return them."""
        return self.prune(max_bytes=0, notify=notify)

    # The layout of the folder.

    def _folder_of(self, key: str) -> Path:
        if not KEY.fullmatch(key):
            raise ValueError(f"not a key: {key!r}")
        return self.base / key

    def _folder(self, name: str) -> Path:
        folder = self.create() / name
        with explained("create", folder):
            folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    def _lock_of(self, key: str) -> Path:
        return self._folder("locks") / f"{key}.lock"

    def _keys(self) -> list[str]:
        with explained("read", self.base), suppress(FileNotFoundError):
            return [entry.name for entry in self.base.iterdir() if KEY.fullmatch(entry.name)]
        return []

    def _digest(self, path: Path) -> str:
        answer = self._digests.recall("sha256", [path], lambda: sha256(path))
        return str(answer)

    # Taking away. An entry is renamed first, so that nobody ever sees a part of one.

    def _remove(self, key: str, notify: Listener) -> bool:
        with hold_if_free(self._lock_of(key)) as free:
            if not free:
                notify(Note("info", f"{key} is being built and stays"))
                return False
            entry = self._folder_of(key)
            doomed = self._folder("staging") / f"{key}.{token()}"
            with explained("remove", entry):
                if not entry.exists():  # somebody else prunes, too
                    return False
                entry.rename(doomed)
            remove_tree(doomed)
            return True

    def _retire(self, digest: Callable[[Path], str], notify: Listener) -> tuple[Damage, ...]:
        """Set the damaged entries aside, and return them."""
        damaged = []
        for key in self._keys():
            entry = read_entry(self._folder_of(key), digest)
            if isinstance(entry, Damage):
                _report(entry, notify)
                damaged.append(entry)
                with hold_if_free(self._lock_of(key)) as free:
                    # Otherwise its builder replaces it, or just has.
                    if free and isinstance(read_entry(self._folder_of(key), digest), Damage):
                        self._set_aside(entry, notify)
        return tuple(damaged)

    def _set_aside(self, damage: Damage, notify: Listener) -> None:
        aside = self._folder("damaged") / f"{damage.key}.{token()}"
        with explained("set aside", damage.folder):
            damage.folder.rename(aside)
        notify(Note("info", f"the damaged module was set aside as {aside}"))

    def _sweep_staging(self, mine: str | None = None) -> None:
        """Remove the folders of builders that are no more: those whose lock is free, or ours."""
        for folder in self._folder("staging").iterdir():
            key = folder.name.partition(".")[0]
            if key == mine:
                remove_tree(folder)
            else:
                with hold_if_free(self._lock_of(key)) as free:
                    if free:
                        remove_tree(folder)

    def _sweep(self) -> None:
        self._sweep_staging()
        for name in ("damaged", "digests"):
            for leftover in self._folder(name).iterdir():
                remove_tree(leftover)
        for log in self._folder("logs").iterdir():
            with hold_if_free(self._lock_of(log.stem)) as free:
                if free:
                    remove_tree(log)


def _report(damage: Damage, notify: Listener) -> None:
    notify(Note("warning", f"the cached module {damage.key} is damaged: {damage.reason}"))


def _measured(artifact: Artifact) -> Entry:
    files = list(artifact.path.parent.iterdir())
    return Entry(
        artifact,
        size_bytes=sum(file.stat().st_size for file in files),
        last_used=artifact.path.with_name(MANIFEST).stat().st_mtime,
    )
