"""Which llamafile is it, and what is inside? Told by its bytes: nothing is started."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from llamabuild import source
from llamabuild.deliver.places import canonical, loader_of
from llamabuild.errors import SourceError
from llamabuild.source import archive
from llamabuild.source.llamafile import DEVICE

if TYPE_CHECKING:
    from zipfile import ZipFile, ZipInfo

__all__ = ["Llamafile", "Member", "identify", "is_program"]

#: What ``llamafile --version`` prints is one text of the program: "llamafile v0.8.1", and a zero.
_TEXT = re.compile(rb"llamafiler? v(\d{1,3}\.\d{1,3}\.\d{1,3})\n?\0")
_LONGEST_TEXT = 64
#: Bytes of the program part that are looked through; a llamafile's program takes 10 to 100 MB.
_PROGRAM = 256 << 20
_PIECE = 1 << 20
_LONGEST_ARGS = 1 << 20
_LONGEST_SOURCE = 32 << 20
_MODULE = re.compile(r"ggml-(cuda|rocm|vulkan)\.(so|dll|dylib)")
_STARTS = (b"MZ", b"\x7fELF", b"#!")
_CUT_OFF = "if it is a download, wait for its end or get it again, and compare its size"


@dataclass(frozen=True)
class Member:
    """A file inside a llamafile. ``size_bytes`` and ``crc`` (CRC-32) are of its contents."""

    name: str
    size_bytes: int
    crc: int


@dataclass(frozen=True)
class Llamafile:
    """A llamafile, the llamafile program without a model, or llamafile's own folder.

    :param path: all links resolved.
    :param candidates: the releases that it can be, in three parts and the oldest first; empty
        where nothing tells.
    :param told_by: how they are known.
    :param sources: the CUDA sources inside, by name in the loader's one folder and in its order.
    :param modules: prebuilt GPU modules inside.
    :param weights: models inside.
    :param arguments: what its ``.args`` adds to every command line.
    :param notes: sentences for the user.
    """

    path: Path
    kind: Literal["llamafile", "program", "folder"]
    candidates: tuple[str, ...]
    told_by: str
    sources: tuple[Member, ...] = ()
    modules: tuple[Member, ...] = ()
    weights: tuple[Member, ...] = ()
    arguments: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def version(self) -> str:
        """The release, where all candidates look for their module in one place and one way.

        :raises SourceError: the contents leave a choice that matters.
        """
        if not self.candidates:
            raise SourceError(
                f"{self.path} does not tell which release of llamafile it is",
                hint=f"ask it ({_quoted(self.path)} --version), and say --llamafile-version 0.10.0",
            )
        ways = {
            (loader.app.format(version=release), loader.rule, source.loader_symbols(release))
            for release in self.candidates
            for loader in [loader_of(release)]
        }
        if len(ways) > 1:
            raise SourceError(
                f"{self.path} can be llamafile {' or '.join(self.candidates)} (by {self.told_by}), "
                "and these do not look for their module in the same folder",
                hint=f"ask it ({_quoted(self.path)} --version), and say for example "
                f"--llamafile-version {self.candidates[-1]}",
            )
        return self.candidates[-1]

    def contents(self) -> Mapping[str, bytes]:
        """The CUDA sources, by name in the loader's one folder.

        :raises SourceError: the llamafile has changed and cannot be read any more.
        """
        if self.kind == "folder":
            return {member.name: (self.path / member.name).read_bytes() for member in self.sources}
        wanted = {member.name for member in self.sources}
        with archive.open_zip(self.path) as opened:
            return {
                Path(info.filename).name: archive.read_member(opened, info, _LONGEST_SOURCE)
                for info in archive.members(opened)
                if info.filename in source.classic_names() and Path(info.filename).name in wanted
            }


def identify(path: Path, *, version: str | None = None) -> Llamafile:
    """Find out which release a llamafile is.

    :param path: a ``.llamafile``, the llamafile program, llamafile's own folder for a release, or
        a folder with one llamafile in it.
    :param version: what the user says, who may know better than the contents tell.
    :raises SourceError: there is none, it is cut off or still being written, or ``version`` is
        not what its sources are of.
    """
    try:
        resolved = path.resolve(strict=True)
        found = _folder(resolved) if resolved.is_dir() else _file(resolved)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or "its links lead in a circle"
        raise SourceError(
            f"{path} cannot be read: {reason}", hint="name a llamafile, or its folder"
        ) from error
    if path.is_symlink():
        found = replace(found, notes=(*found.notes, f"{path} is a link to {resolved}"))
    return found if version is None else _said(found, version)


def is_program(path: Path) -> bool:
    """Whether a file may be a llamafile: a program with a ZIP behind it."""
    try:
        if not path.is_file():  # a FIFO would be waited for
            return False
        with path.open("rb") as file:
            start = file.read(4)
        return start.startswith(_STARTS) and archive.kind(path) == "zip"
    except (OSError, SourceError):
        return False


def _file(path: Path) -> Llamafile:
    if not path.is_file():  # a FIFO would be waited for
        raise SourceError(
            f"{path} is neither a file nor a folder", hint="name a llamafile, or its folder"
        )
    with path.open("rb") as file:
        start = file.read(4)
    if not start.startswith(_STARTS):
        what = "a model's weights" if start == b"GGUF" else "no program"
        raise SourceError(
            f"{path} is {what if start else 'empty'}: a llamafile begins with its program",
            hint="name the llamafile that loads it",
        )
    if archive.kind(path) is None:
        raise SourceError(
            f"{path} has no ZIP directory at its end: it is no llamafile, is cut off, or is still "
            "being written",
            hint=_CUT_OFF,
        )
    with archive.open_zip(path) as opened:
        infos = list(archive.members(opened))
        arguments = _arguments(opened, infos)
    by_name = {info.filename: info for info in infos}
    sources = tuple(
        Member(Path(name).name, by_name[name].file_size, by_name[name].CRC)
        for name in source.classic_names()
        if name in by_name
    )
    weights = tuple(_member(info) for info in infos if info.filename.lower().endswith(".gguf"))
    end = min((info.header_offset for info in infos), default=path.stat().st_size)
    candidates, told_by = _candidates(sources, _texts(path, end))
    if not candidates and sources:
        told_by = "nothing"
    return Llamafile(
        path,
        "llamafile" if weights else "program",
        candidates,
        told_by,
        sources,
        tuple(_member(info) for info in infos if _MODULE.fullmatch(info.filename)),
        weights,
        arguments,
    )


def _candidates(sources: Sequence[Member], texts: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """Releases by the program's own text, and by its sources; the two have to agree."""
    by_sources = tuple(
        canonical(name)
        for name in source.releases_of({member.name: member.crc for member in sources})
    )
    named = tuple(text for text in texts if not by_sources or text in by_sources)
    if len(named) == 1:
        return named, f"the text 'llamafile v{named[0]}' in its program"
    return by_sources, "the checksums of its sources" if by_sources else "nothing"


def _texts(path: Path, end: int) -> tuple[str, ...]:
    """Every release that the program part names, each once."""
    found: dict[str, None] = {}
    left, tail = min(end, _PROGRAM), b""
    with path.open("rb") as file:
        while left > 0 and (piece := file.read(min(_PIECE, left))):
            left -= len(piece)
            for match in _TEXT.finditer(tail + piece):
                found[canonical(match[1].decode())] = None
            tail = piece[-_LONGEST_TEXT:]
    return tuple(found)


def _arguments(opened: ZipFile, infos: Sequence[ZipInfo]) -> tuple[str, ...]:
    for info in infos:
        if info.filename == ".args":
            text = archive.read_member(opened, info, _LONGEST_ARGS).decode("utf-8", "replace")
            return tuple(text.splitlines())
    return ()


def _member(info: ZipInfo) -> Member:
    return Member(info.filename, info.file_size, info.CRC)


def _folder(path: Path) -> Llamafile:
    programs = [
        entry
        for entry in sorted(path.iterdir())
        if entry.is_file() and _looks_like_llamafile(entry.name) and is_program(entry)
    ]
    if len(programs) == 1:
        return _file(programs[0].resolve())
    if programs:
        raise SourceError(
            f"there are {len(programs)} llamafiles in {path}:"
            + "".join(f"\n  {program}" for program in programs),
            hint="name one of them",
        )
    named = _named_for_a_release(path)
    if named is None and source.looks_classic(path) != "unpacked":
        return _nothing_in(path)
    sources = tuple(
        _on_disk(path / Path(name).name)
        for name in source.classic_names()
        if (path / Path(name).name).is_file()
    )
    by_sources, told_by = _candidates(sources, ())
    if named is not None:
        return Llamafile(path, "folder", (named,), "the folder's name", sources)
    shared = tuple(name for name in by_sources if loader_of(name).shared)
    return Llamafile(path, "folder", shared, told_by, sources)


def _named_for_a_release(path: Path) -> str | None:
    """The release of ``…/.llamafile/v/0.8.13``."""
    parts = path.name.split(".")
    if path.parent.name == "v" and len(parts) == 3 and all(part.isdecimal() for part in parts):
        return canonical(path.name)
    return None


def _nothing_in(path: Path) -> Llamafile:
    releases = sorted((path / "v").iterdir()) if (path / "v").is_dir() else []
    if releases:
        raise SourceError(
            f"{path} holds folders of several releases:"
            + "".join(f"\n  {release}" for release in releases),
            hint="name one of them, or better the llamafile itself",
        )
    raise SourceError(
        f"{path} holds no llamafile, and none has unpacked its sources there",
        hint="name the llamafile itself",
    )


def _on_disk(path: Path) -> Member:
    data = path.read_bytes()
    return Member(path.name, len(data), zlib.crc32(data))


def _looks_like_llamafile(name: str) -> bool:
    plain = name.lower().removesuffix(".exe")
    return plain.endswith(".llamafile") or re.fullmatch(r"llamafiler?(-[\d.]+)?", plain) is not None


def _said(found: Llamafile, version: str) -> Llamafile:
    release = canonical(version)
    loader_of(release)
    of_sources = found.sources and source.releases_of(
        {member.name: member.crc for member in found.sources}
    )
    if of_sources and release not in map(canonical, of_sources):
        raise SourceError(
            f"{found.path} is not llamafile {release}: its {DEVICE} is that of "
            f"{' or '.join(map(canonical, of_sources))}",
            hint=f"--llamafile-version {canonical(of_sources[-1])}, or leave it out",
        )
    return replace(found, candidates=(release,), told_by="--llamafile-version")


def _quoted(path: Path) -> str:
    import shlex

    return shlex.quote(str(path))
