"""What was replaced: every file with its digest, and a record of every change, to go back by.

``<backups>/files/<sha256>`` holds contents, ``<backups>/records/<target>/<number>.json`` what a
change found and what it left in one folder (or inside one llamafile). The folder is the user's
data, not cache: nothing here clears it.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from llamabuild.deliver.folders import explained
from llamabuild.deliver.staging import staged
from llamabuild.errors import DeliveryError

__all__ = ["Backups", "FileState", "Record", "backups_folder", "digest_of", "state_of"]

Action = Literal["install", "embed", "rollback"]


@dataclass(frozen=True)
class FileState:
    """A file as it was: contents by SHA-256 (empty: there was none), mode and time of change."""

    sha256: str = ""
    size_bytes: int = 0
    mtime_ns: int = 0
    mode: int = 0o755


@dataclass(frozen=True)
class Record:
    """One change of the files in ``target``: a folder, or a llamafile with the module inside.

    :param module: the name of the module's file; the other files are its sources.
    :param undoes: numbers of the changes that a rollback took back.
    :param at: UTC, ISO 8601.
    """

    action: Action
    llamafile: str
    version: str
    module: str
    target: str = ""
    before: Mapping[str, FileState] = field(default_factory=dict)
    after: Mapping[str, FileState] = field(default_factory=dict)
    undoes: tuple[int, ...] = ()
    number: int = 0
    at: str = ""


def backups_folder(environ: Mapping[str, str]) -> Path | None:
    """Where backups are unless a user names another folder: in the user's own data folder.

    None where there is no home, and so no such folder.
    """
    if sys.platform in {"win32", "darwin"}:
        import platformdirs

        return platformdirs.user_data_path("llamabuild", appauthor=False) / "backups"
    # The XDG base directory specification: a relative path is to be ignored.
    data, home = (Path(environ.get(variable, "")) for variable in ("XDG_DATA_HOME", "HOME"))
    if data.is_absolute():
        return data / "llamabuild" / "backups"
    if home.is_absolute() and home.is_dir():
        return home / ".local" / "share" / "llamabuild" / "backups"
    return None


class Backups:
    """The backups in ``root``, which is created for its owner alone when something is kept."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self) -> Path:
        """The folder itself, created if it is missing.

        :raises DeliveryError: it cannot be created, or belongs to somebody else.
        """
        with explained(f"create {self.root}"):
            self._folder(self.root)
        return self.root

    def keep(self, path: Path) -> FileState:
        """Keep a copy of a file, and return its state; of none if there is no such file.

        :raises DeliveryError: it cannot be copied.
        """
        state = state_of(path)
        if state.sha256:
            with explained(f"keep a copy of {path} in {self.root}"):
                kept = self._file(state.sha256)
                if not (kept.is_file() and digest_of(kept) == state.sha256):
                    self._folder(kept.parent)
                    self._copy(path, kept, state.sha256)
        return state

    def contents(self, state: FileState) -> Path | None:
        """The kept copy of a file in that state; none if it is not there, or damaged."""
        kept = self._file(state.sha256)
        try:
            return kept if digest_of(kept) == state.sha256 else None
        except OSError:
            return None

    def write(self, record: Record) -> Record:
        """Add a record under the next number, and return it with number and time."""
        numbers = [known.number for known in self.records(Path(record.target))]
        complete = Record(
            **{
                **vars(record),
                "number": max(numbers, default=0) + 1,
                "at": datetime.now(UTC).isoformat(timespec="microseconds"),
            }
        )
        path = self._records(Path(record.target)) / f"{complete.number:06}.json"
        with explained(f"write a record in {self.root}"):
            self._folder(path.parent)
            text = json.dumps({**asdict(complete), "schema": 1}, indent=2)
            with staged(path) as stage:
                stage.file.write(text.encode())
                stage.publish(os.stat_result((0o100600, *tuple(path.parent.stat())[1:10])))
        return complete

    def records(self, target: Path) -> tuple[Record, ...]:
        """The changes of one target, the oldest first; unreadable records are left out."""
        found = []
        folder = self._records(target)
        for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
            with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
                found.append(_record(json.loads(path.read_bytes())))
        return tuple(found)

    def forget(self, record: Record) -> None:
        """Remove the record of a change that did not happen."""
        path = self._records(Path(record.target)) / f"{record.number:06}.json"
        with suppress(OSError):
            path.unlink()

    def made_here(self) -> dict[str, int]:
        """Digests of all modules that were ever put in place from here, with sizes in bytes."""
        folder = self.root / "records"
        known: dict[str, int] = {}
        for path in folder.glob("*/*.json") if folder.is_dir() else ():
            with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
                record = _record(json.loads(path.read_bytes()))
                if record.action != "rollback" and record.module in record.after:
                    state = record.after[record.module]
                    known[state.sha256] = state.size_bytes
        return known

    def _records(self, target: Path) -> Path:
        name = hashlib.sha256(os.fsencode(target)).hexdigest()[:24]
        return self.root / "records" / name

    def _file(self, sha256: str) -> Path:
        return self.root / "files" / sha256

    def _folder(self, folder: Path) -> None:
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.parent.mkdir(mode=0o700, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        if sys.platform != "win32" and self.root.stat().st_uid != os.geteuid():
            raise DeliveryError(
                f"the folder for backups, {self.root}, belongs to somebody else",
                hint="name a folder of your own with LLAMABUILD_BACKUP_DIR",
            )

    def _copy(self, path: Path, kept: Path, sha256: str) -> None:
        with path.open("rb") as original, staged(kept) as stage:
            copied = hashlib.sha256()
            while piece := original.read(1 << 20):
                copied.update(piece)
                view = memoryview(piece)
                while view:
                    view = view[stage.file.write(view) :]
            if copied.hexdigest() != sha256:
                raise DeliveryError(
                    f"{path} changed while it was copied", hint="try again when nobody writes it"
                )
            stage.publish(os.stat_result((0o100600, *tuple(kept.parent.stat())[1:10])))


def state_of(path: Path) -> FileState:
    """Return the state of a file, of none if there is no such file.

    :raises DeliveryError: it cannot be read.
    """
    with explained(f"read {path}"):
        try:
            status = path.stat()
            return FileState(
                digest_of(path), status.st_size, status.st_mtime_ns, status.st_mode & 0o777
            )
        except (FileNotFoundError, NotADirectoryError):
            return FileState()


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file's contents, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _record(values: dict[str, Any]) -> Record:
    del values["schema"]
    for side in ("before", "after"):
        values[side] = {name: FileState(**state) for name, state in values[side].items()}
    return Record(**{**values, "undoes": tuple(values["undoes"])})
