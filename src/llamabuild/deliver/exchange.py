"""Exchange a module and its sources in one folder: all or nothing, and what was there is kept."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from llamabuild.deliver import folders
from llamabuild.deliver.keep import Backups, FileState, Record, state_of
from llamabuild.deliver.staging import Stage, staged
from llamabuild.errors import DeliveryError
from llamabuild.memo import identity

__all__ = ["Wanted", "exchange", "of_state"]


@dataclass(frozen=True)
class Wanted:
    """What a file is to be.

    :param contents: a file to copy, or bytes; none if there is to be no such file.
    :param mtime_ns: its time of change; 0 for now.
    """

    contents: Path | bytes | None
    mode: int = 0o755
    mtime_ns: int = 0

    def state(self) -> FileState:
        """What :func:`llamabuild.deliver.keep.state_of` will say of it, without its time."""
        if self.contents is None:
            return FileState()
        if isinstance(self.contents, bytes):
            digest, size = hashlib.sha256(self.contents).hexdigest(), len(self.contents)
        else:
            known = state_of(self.contents)
            digest, size = known.sha256, known.size_bytes
        return FileState(digest, size, self.mtime_ns, self.mode)


def of_state(state: FileState, name: str, backups: Backups) -> Wanted:
    """What a file was.

    :raises DeliveryError: its contents are not kept any more.
    """
    if not state.sha256:
        return Wanted(None)
    kept = backups.contents(state)
    if kept is None:
        raise DeliveryError(
            f"the kept copy of {name} ({state.sha256[:12]}) is gone or damaged",
            hint="--list shows what else can be restored",
        )
    return Wanted(kept, state.mode, state.mtime_ns)


def exchange(
    folder: Path, module: str, wanted: Mapping[str, Wanted], backups: Backups, record: Record
) -> Record:
    """Give the files in ``folder`` their new contents, the module last, and return the record.

    A file that a program has open stays what it is for that program: nothing is written in place.
    Whatever fails or interrupts this, the module that was there is there still.

    :param record: what to note, without the states before and after.
    :raises DeliveryError: it is refused, or somebody else does the same at this moment.
    """
    names = [*(name for name in wanted if name != module), module]
    for name in names:
        folders.check_file(folder / name)
    with ExitStack() as stages, folders.explained(f"write in {folder}"):
        # The module's stage is also the lock: one exchange at a time in a folder.
        lock = stages.enter_context(staged(folder / module))
        stage = {name: stages.enter_context(staged(folder / name)) for name in names[:-1]}
        stage[module] = lock
        for name in names:  # the module last, so that no source becomes newer
            _fill(stage[name], wanted[name])
        before = {name: backups.keep(folder / name) for name in names}
        after = {name: wanted[name].state() for name in names}
        complete = backups.write(
            Record(**{**vars(record), "target": str(folder), "before": before, "after": after})
        )
        done: list[str] = []
        try:
            for name in names:
                done.append(name)
                _publish(folder / name, stage[name], wanted[name])
        except BaseException:
            for name in done[:-1]:
                _put_back(folder / name, of_state(before[name], name, backups))
            backups.forget(complete)
            raise
    return complete


def _publish(path: Path, stage: Stage, wanted: Wanted) -> None:
    if wanted.contents is None:
        path.unlink(missing_ok=True)
        return
    stage.publish(folders.like(path, wanted.mode))
    if wanted.mtime_ns:
        os.utime(path, ns=(wanted.mtime_ns, wanted.mtime_ns))


def _put_back(path: Path, wanted: Wanted) -> None:
    with staged(path) as stage:
        _fill(stage, wanted)
        _publish(path, stage, wanted)


def _fill(stage: Stage, wanted: Wanted) -> None:
    if isinstance(wanted.contents, bytes):
        _copy(io.BytesIO(wanted.contents), stage)
    elif wanted.contents is not None:
        seen = identity(wanted.contents)
        with wanted.contents.open("rb") as file:
            _copy(file, stage)
        if identity(wanted.contents) != seen:
            raise DeliveryError(f"{wanted.contents} changed while it was copied", hint="try again")


def _copy(file: BinaryIO, stage: Stage) -> None:
    while piece := file.read(1 << 20):
        view = memoryview(piece)
        while view:
            view = view[stage.file.write(view) :]
