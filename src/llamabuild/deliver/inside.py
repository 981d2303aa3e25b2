"""The module inside a llamafile as something that can be kept, exchanged and put back."""

from __future__ import annotations

import hashlib
import io
import tempfile
from pathlib import Path

from llamabuild.deliver import embed
from llamabuild.deliver.exchange import of_state
from llamabuild.deliver.keep import Backups, FileState, Record, state_of
from llamabuild.events import Listener

__all__ = ["put", "put_back", "state"]


class _Hashed(io.RawIOBase):
    """Counts and hashes what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.hash.update(data)
        self.size += len(data)
        return len(data)


def state(llamafile: Path, name: str) -> FileState:
    """The state of a module inside; its contents are read in full, and nothing is written.

    :raises DeliveryError: the llamafile cannot be read, or the module in it is damaged.
    """
    if all(member.name != name for member in embed.modules(llamafile)):
        return FileState()
    sink = _Hashed()
    embed.extract(llamafile, name, sink)  # type: ignore[arg-type]
    return FileState(sink.hash.hexdigest(), sink.size)


def put(
    llamafile: Path, module: Path, backups: Backups, record: Record, notify: Listener
) -> Record | None:
    """Put a module in, and keep the one that is there; none if it is the very same.

    :raises DeliveryError: it is refused; the llamafile is as it was.
    """
    name = record.module
    complete = _noted(llamafile, state_of(module), backups, record)
    try:
        change = embed.embed(llamafile, module, name=name, notify=notify)
    except BaseException:
        backups.forget(complete)
        raise
    if change.action == "unchanged":
        backups.forget(complete)
        return None
    return complete


def put_back(
    llamafile: Path, wanted: FileState, backups: Backups, record: Record, notify: Listener
) -> Record:
    """Give the module inside the state that it had, which may be absence.

    :raises DeliveryError: it is refused, or not kept any more; the llamafile is as it was.
    """
    name = record.module
    contents = of_state(wanted, name, backups).contents
    complete = _noted(llamafile, wanted, backups, record)
    try:
        if isinstance(contents, Path):
            embed.embed(llamafile, contents, name=name, notify=notify)
        elif complete.before[name].sha256:
            embed.remove(llamafile, name=name, notify=notify)
    except BaseException:
        backups.forget(complete)
        raise
    return complete


def _noted(llamafile: Path, after: FileState, backups: Backups, record: Record) -> Record:
    name = record.module
    before = FileState()
    if any(member.name == name for member in embed.modules(llamafile)):
        with tempfile.TemporaryDirectory(dir=backups.folder()) as folder:
            copy = Path(folder, name)
            with copy.open("wb") as file:
                embed.extract(llamafile, name, file)
            before = backups.keep(copy)
    states = {"before": {name: before}, "after": {name: after}}
    return backups.write(Record(**{**vars(record), "target": str(llamafile), **states}))
