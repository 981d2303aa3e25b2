"""Modules inside a llamafile: put one in, replace it, take it out.

The llamafile is never written to. A new file grows beside it: everything that llamafile can see
of the old one at the same places (the program, the weights, all other members), then the module,
then a new directory. It is compared with the old one byte for byte, and only then takes its name,
so that an interruption at any moment leaves the old file as it was.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import stat
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import IO, Literal

from llamabuild.deliver import copying, ziplayout
from llamabuild.deliver.staging import Stage, explained, staged
from llamabuild.deliver.ziplayout import Layout, Member
from llamabuild.errors import DeliveryError
from llamabuild.events import Listener, Note, silent
from llamabuild.memo import identity

__all__ = ["Change", "embed", "extract", "module_name", "modules", "remove"]

#: What llamafile looks up in its own ZIP, at the top.
_MODULE = re.compile(r"ggml-(cuda|rocm|vulkan|metal)\.(so|dll|dylib)")
_PIECE = 1 << 20
_STORED, _DEFLATED = 0, 8


@dataclass(frozen=True)
class Change:
    """What was done to a llamafile, or would be done.

    :param path: the file that has the new contents.
    :param name: the module's name inside.
    :param action: ``unchanged`` where the very same module is there already.
    :param dropped: the members of that name that the old file has.
    :param size_before: of the llamafile, in bytes; ``size_after`` of the result.
    :param written: whether anything was written.
    """

    path: Path
    name: str
    action: Literal["added", "replaced", "removed", "unchanged"]
    dropped: tuple[Member, ...]
    size_before: int
    size_after: int
    written: bool


def embed(
    llamafile: Path,
    module: Path,
    *,
    name: str,
    output: Path | None = None,
    dry_run: bool = False,
    notify: Listener = silent,
) -> Change:
    """Put ``module`` into a llamafile under ``name``, in place of what has that name now.

    :param output: write the result there, and leave the llamafile alone.
    :raises DeliveryError: it is refused, there is no room, or something changed meanwhile; the
        llamafile is as it was.
    """
    with _opened(module, "module") as file:
        added = _Module(file, module, name)
        return _change(llamafile, name, added, output, dry_run=dry_run, notify=notify)


def remove(
    llamafile: Path,
    *,
    name: str,
    output: Path | None = None,
    dry_run: bool = False,
    notify: Listener = silent,
) -> Change:
    """Take the member ``name`` out of a llamafile; parameters and errors as for :func:`embed`."""
    return _change(llamafile, name, None, output, dry_run=dry_run, notify=notify)


def modules(llamafile: Path) -> tuple[Member, ...]:
    """Return the GPU modules inside a llamafile.

    :raises DeliveryError: it cannot be read.
    """
    with _opened(llamafile, "llamafile") as file:
        layout = ziplayout.read_layout(file, llamafile)
    return tuple(member for member in layout.members if _MODULE.fullmatch(member.name))


def module_name(module: Path, name: str | None) -> str:
    """Return the name under which llamafile finds a module: ``name``, else the file's own.

    :raises DeliveryError: llamafile looks for no such name.
    """
    chosen = name or module.name
    if _MODULE.fullmatch(chosen):
        return chosen
    raise DeliveryError(
        f"llamafile looks for no module named {chosen}",
        hint="say which it is: --name ggml-cuda.so (or ggml-rocm.so, ggml-cuda.dll)",
    )


def extract(llamafile: Path, name: str, target: IO[bytes]) -> Member:
    """Write the contents of the member ``name``, checked, into an open file.

    :raises DeliveryError: there is no such member, or it is damaged or packed in a way that
        cannot be read here.
    """
    with _opened(llamafile, "llamafile") as file:
        layout = ziplayout.read_layout(file, llamafile)
        # Of two with one name the last one counts, as for unzip.
        found = [member for member in layout.members if member.name == name]
        if not found:
            raise _no_such(llamafile, name, layout)
        member = found[-1]
        crc32 = 0
        for piece in _contents(file, member, llamafile):
            crc32 = zlib.crc32(piece, crc32)
            target.write(piece)
    if crc32 != member.crc32:
        raise DeliveryError(
            f"{name} in {llamafile} is damaged: its checksum is {crc32:08x}, not {member.crc32:08x}"
        )
    return member


class _Module:
    """A module's file with what the ZIP will say of it."""

    def __init__(self, file: FileIO, path: Path, name: str) -> None:
        self.file, self.path, self.name = file, path, name
        self.seen = identity(path)
        self.size = os.fstat(file.fileno()).st_size
        self.crc32 = 0
        for piece in _pieces(file, 0, self.size):
            self.crc32 = zlib.crc32(piece, self.crc32)

    def is_in(self, file: FileIO, member: Member) -> bool:
        """Whether a member has the same contents, and lies as it would be written."""
        if (member.size_bytes, member.crc32) != (self.size, self.crc32) or not member.aligned:
            return False
        theirs = _pieces(file, member.start, self.size)
        ours = _pieces(self.file, 0, self.size)
        return all(one == other for one, other in zip(theirs, ours, strict=True))


@dataclass(frozen=True)
class _Edit:
    """What a new file consists of.

    :param keep: it begins with so many bytes of the old one, and ``padding`` zeros.
    :param staying: the members that the new directory takes over.
    :param module: comes next, unless it is only something to be removed; then the directory.
    """

    path: Path
    file: FileIO
    layout: Layout
    name: str
    module: _Module | None
    staying: tuple[Member, ...]
    dropped: tuple[Member, ...]
    keep: int
    padding: int

    @classmethod
    def of(cls, path: Path, file: FileIO, name: str, module: _Module | None) -> _Edit:
        """Decide what of a llamafile stays where."""
        layout = ziplayout.read_layout(file, path)
        dropped = tuple(member for member in layout.members if member.name == name)
        staying = tuple(member for member in layout.members if member.name != name)
        if module is None and not dropped:
            raise _no_such(path, name, layout)
        keep = layout.replaceable
        # What is last and goes makes room; a gap in the middle stays, as zipalign leaves it.
        for member in sorted(dropped, key=lambda member: member.offset, reverse=True):
            if member.end == keep and all(other.end <= member.offset for other in staying):
                keep = member.offset
        padding = ziplayout.padding(keep, name) if module else 0
        return cls(path, file, layout, name, module, staying, dropped, keep, padding)

    @property
    def action(self) -> Literal["added", "replaced", "removed"]:
        if self.module is None:
            return "removed"
        return "replaced" if self.dropped else "added"

    @property
    def changes_nothing(self) -> bool:
        """Whether the very same module is there, as it would be put there."""
        present = self.dropped
        return bool(self.module and len(present) == 1 and self.module.is_in(self.file, present[0]))

    @property
    def header(self) -> bytes:
        """What stands before the module's contents."""
        if self.module is None:
            return b""
        return ziplayout.local_header(self.name, self.module.size, self.module.crc32)

    @property
    def directory(self) -> bytes:
        """What stands after them, to the end of the file."""
        records = [member.record for member in self.staying]
        offset = end = self.keep + self.padding
        if module := self.module:
            end += len(self.header) + module.size
            records.append(ziplayout.directory_entry(self.name, module.size, module.crc32, offset))
        entries = b"".join(records)
        comment = self.layout.comment
        return entries + ziplayout.end_records(len(records), len(entries), end, comment)

    @property
    def tail_bytes(self) -> int:
        """How much comes after what is kept."""
        size = self.module.size if self.module else 0
        return self.padding + len(self.header) + size + len(self.directory)


def _change(
    llamafile: Path,
    name: str,
    module: _Module | None,
    output: Path | None,
    *,
    dry_run: bool,
    notify: Listener,
) -> Change:
    path = _resolved(llamafile, notify)
    target = _target(path, output, notify)
    seen = identity(path)
    with _opened(path, "llamafile") as file:
        edit = _Edit.of(path, file, name, module)
        before, after = edit.layout.size, edit.keep + edit.tail_bytes
        if target == path and edit.changes_nothing:
            return Change(path, name, "unchanged", edit.dropped, before, before, False)
        if not dry_run:
            with explained(f"write {target}"), staged(target) as stage:
                _fill(stage, edit, notify)
                _check(stage, edit, notify)
                if identity(path) != seen or (module and identity(module.path) != module.seen):
                    raise _changed(path)
                stage.publish(os.fstat(file.fileno()))
    return Change(target, name, edit.action, edit.dropped, before, after, not dry_run)


def _fill(stage: Stage, edit: _Edit, notify: Listener) -> None:
    if copying.share_blocks(edit.file, stage.file):
        stage.file.truncate(edit.keep)
    else:
        _find_room(stage, edit)
        try:
            copying.copy(edit.file, stage.file, edit.keep, f"copying {edit.path.name}", notify)
        except EOFError:
            raise _changed(edit.path) from None
    stage.file.seek(edit.keep + edit.padding)
    _write(stage.file, edit.header)
    if module := edit.module:
        for piece in _pieces(module.file, 0, module.size):
            _write(stage.file, piece)
    _write(stage.file, edit.directory)


def _find_room(stage: Stage, edit: _Edit) -> None:
    needed = copying.data_bytes(edit.file, edit.keep) + edit.tail_bytes
    free = shutil.disk_usage(stage.path.parent).free
    if free < needed:
        raise DeliveryError(
            f"a changed copy of {edit.path.name} takes {needed:,} bytes on the disk of "
            f"{stage.path.parent}, which has {free:,} left",
            hint="free some space there, or let embed --output write to another disk",
        )


def _check(stage: Stage, edit: _Edit, notify: Listener) -> None:
    """Read everything again: what was kept, the new directory, and the module."""
    os.fsync(stage.file.fileno())
    if hasattr(os, "posix_fadvise"):  # what the disk has is to be read, not what memory has
        os.posix_fadvise(stage.file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    step = f"checking {edit.path.name}"
    if copying.difference(edit.file, stage.file, edit.keep, step, notify) is not None:
        raise _changed(edit.path)
    members = ziplayout.read_layout(stage.file, stage.path).members
    count = len(edit.staying)
    sound = members[:count] == edit.staying and (
        edit.module.is_in(stage.file, members[count]) if edit.module else len(members) == count
    )
    if not sound:
        raise DeliveryError(f"the changed copy of {edit.path} is damaged: the disk may be failing")


def _resolved(llamafile: Path, notify: Listener) -> Path:
    """The file itself, where a link was named."""
    with explained(f"read {llamafile}"):
        path = llamafile.resolve(strict=True)
        if not stat.S_ISREG(path.stat().st_mode):
            raise DeliveryError(f"{llamafile} is no file")
    if llamafile.is_symlink():
        notify(Note("info", f"{llamafile} is a link to {path}"))
    return path


def _target(path: Path, output: Path | None, notify: Listener) -> Path:
    """The file to write: whole, one's own, and one that may be written."""
    target = path
    if output is not None:
        if output.is_dir():
            output /= path.name
        target = output.resolve()
        if not target.parent.is_dir():
            raise DeliveryError(
                f"cannot write {target}: there is no folder {target.parent}", hint="create it"
            )
    if not target.exists():
        return target
    status = target.stat()
    elsewhere = "write the result elsewhere with --output"
    if not stat.S_ISREG(status.st_mode):
        raise DeliveryError(f"{target} is neither a plain file nor a folder", hint=elsewhere)
    if not status.st_mode & 0o222:
        raise DeliveryError(
            f"{target} is read-only", hint=f"chmod u+w {shlex.quote(str(target))}, or {elsewhere}"
        )
    if sys.platform != "win32" and os.geteuid() not in {0, status.st_uid}:
        raise DeliveryError(
            f"{target} belongs to user {status.st_uid}, not to you ({os.geteuid()})", hint=elsewhere
        )
    if status.st_nlink > 1:
        words = f"{target} has {status.st_nlink} names; the others keep the old contents"
        notify(Note("warning", words))
    return target


@contextmanager
def _opened(path: Path, what: str) -> Iterator[FileIO]:
    with explained(f"read the {what} {path}"):
        file = FileIO(os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0)), "r")
    with file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise DeliveryError(f"the {what} {path} is no file")
        yield file


def _pieces(file: FileIO, start: int, length: int) -> Iterator[bytes]:
    for position in range(start, start + length, _PIECE):
        yield ziplayout.read_at(file, position, min(_PIECE, start + length - position))


def _write(file: FileIO, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def _contents(file: FileIO, member: Member, path: Path) -> Iterator[bytes]:
    """The contents of a member as they were before they were packed."""
    packed = _pieces(file, member.start, member.end - member.start)
    if member.encrypted or member.method not in {_STORED, _DEFLATED}:
        raise DeliveryError(
            f"{member.name} in {path} is packed in a way that cannot be read here",
            hint="take it out with the program that put it in",
        )
    if member.method == _STORED:
        yield from packed
        return
    decoder = zlib.decompressobj(-zlib.MAX_WBITS)
    left = member.size_bytes
    try:
        for piece in packed:
            data = decoder.decompress(piece, left + 1)
            left -= len(data)
            if left < 0:
                break
            yield data
    except zlib.error as error:
        raise DeliveryError(f"{member.name} in {path} is damaged: {error}") from error


def _no_such(path: Path, name: str, layout: Layout) -> DeliveryError:
    inside = [member.name for member in layout.members if _MODULE.fullmatch(member.name)]
    listed = ", ".join(inside) or "none"
    return DeliveryError(f"{path} has no {name} inside; the modules in it: {listed}")


def _changed(path: Path) -> DeliveryError:
    return DeliveryError(
        f"{path} changed while it was copied, so the copy was thrown away",
        hint="wait until nothing writes to it any more, then try again",
    )
