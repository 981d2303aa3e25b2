"""Archives of strangers: every member is looked at, bounds hold for what really comes out.

Nothing is written but regular files whose names stay below the target folder. What a header says
about sizes is never believed: bytes are counted as they are unpacked.
"""

from __future__ import annotations

import errno
import io
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING

from llamabuild.errors import SourceError
from llamabuild.source.bounded import CHUNK, Careful, Limits, decompressed, too_large

if TYPE_CHECKING:
    import tarfile
    import zipfile

__all__ = ["Limits", "kind", "members", "open_zip", "read_member", "unpack"]

#: A drive, a backslash, a control character: a path elsewhere on some system.
_ODD = re.compile(r"^[A-Za-z]:|[\\\x00-\x1f]")


def kind(path: Path) -> str | None:
    """``zip`` or ``tar`` (compressed or not) by the contents, none for anything else.

    A llamafile is a program with a ZIP behind it, and counts as ``zip``.

    :raises SourceError: the file cannot be read.
    """
    import zipfile

    with _sound(path), path.open("rb") as file:
        start = file.read(512)
        if start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0")) or start[257:262] == b"ustar":
            return "tar"
        return "zip" if zipfile.is_zipfile(file) else None


def unpack(
    path: Path,
    into: Path,
    *,
    wanted: Callable[[str], bool],
    limits: Limits | None = None,
) -> None:
    """Unpack the wanted regular files of a ZIP or tar archive into an existing folder.

    Links are followed inside the archive (their target's contents are copied), never outside.

    :param wanted: asked with each member's relative name.
    :raises SourceError: the archive is damaged, encrypted, too large, or has a member that would
        land outside ``into``.
    :raises OSError: ``into`` cannot be written.
    """
    unpacker = _unpack_zip if kind(path) == "zip" else _unpack_tar
    unpacker(path, into, wanted, limits or Limits())


@contextmanager
def open_zip(path: Path, limits: Limits | None = None) -> Iterator[zipfile.ZipFile]:
    """Open a ZIP, or a program with a ZIP behind it; only its directory is read.

    Whatever goes wrong with the archive, here or in the block, is a :class:`SourceError`.
    """
    import zipfile

    with (
        _sound(path),
        Careful(io.FileIO(path), (limits or Limits()).headers) as file,
        zipfile.ZipFile(file) as archive,
    ):
        yield archive


def members(archive: zipfile.ZipFile, limits: Limits | None = None) -> Iterator[zipfile.ZipInfo]:
    """Yield the files of a ZIP after a look at their names and modes.

    :raises SourceError: there are too many, or one would land elsewhere.
    """
    infos = archive.infolist()
    if len(infos) > (limits or Limits()).members:
        raise SourceError(f"the archive has {len(infos):,} members, which no source has")
    for info in infos:
        _safe(info.filename)
        if not info.is_dir():
            yield info


def read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, limit: int) -> bytes:
    """Return one regular file of a ZIP, at most ``limit`` bytes of it, its checksum verified.

    :raises SourceError: it is encrypted, a link, or longer.
    """
    if _is_link(info):
        raise SourceError(f"{info.filename!r} in the archive is a link, not a file")
    return _contents(archive, info, limit)


def _contents(archive: zipfile.ZipFile, info: zipfile.ZipInfo, limit: int) -> bytes:
    _readable(info)
    with archive.open(info) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise SourceError(f"{info.filename!r} unpacks to more than {limit:,} bytes")
    return data


def _unpack_zip(path: Path, into: Path, wanted: Callable[[str], bool], limits: Limits) -> None:
    left = limits.unpacked
    with open_zip(path, limits) as archive:
        links: dict[str, str] = {}
        for info in members(archive, limits):
            if _is_link(info):
                target = _contents(archive, info, 4096).decode("utf-8", "surrogateescape")
                links[_safe(info.filename)] = _target(info.filename, target)
            elif wanted(info.filename):
                _readable(info)
                with archive.open(info) as file:
                    left -= _write(file, into, _safe(info.filename), left)
        _follow(links, into, wanted, left)


def _unpack_tar(path: Path, into: Path, wanted: Callable[[str], bool], limits: Limits) -> None:
    import tarfile

    left = limits.unpacked
    links: dict[str, str] = {}
    with _sound(path), decompressed(path, limits) as stream:
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            for count, member in enumerate(archive, 1):
                if count > limits.members:
                    raise SourceError(
                        f"the archive has more than {limits.members:,} members, which no source has"
                    )
                name = _safe(member.name)
                if member.issym():
                    links[name] = _target(name, member.linkname)
                elif member.islnk():
                    links[name] = _safe(member.linkname)
                elif not (member.isreg() or member.isdir()):
                    raise SourceError(f"{name!r} is a device, not a file")
                elif member.isreg() and wanted(name):
                    left -= _write_tar(archive, member, into, name, left)
        _follow(links, into, wanted, left)


def _write_tar(
    archive: tarfile.TarFile, member: tarfile.TarInfo, into: Path, name: str, left: int
) -> int:
    file = archive.extractfile(member)
    assert file is not None  # a regular file
    with file:
        return _write(file, into, name, left)


def _write(file: IO[bytes], into: Path, name: str, left: int) -> int:
    """Copy ``file`` and return its length, which must be at most ``left``."""
    path = into / name
    length = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        copy = path.open("xb")
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise SourceError(f"the archive has {name!r} twice") from None
    with copy:
        while data := file.read(CHUNK):
            length += len(data)
            if length > left:
                raise too_large()
            copy.write(data)
    return length


def _follow(links: dict[str, str], into: Path, wanted: Callable[[str], bool], left: int) -> None:
    """Give wanted links the contents of the file that they name, if that was unpacked."""
    for name, target in links.items():
        if wanted(name) and (into / target).is_file():
            with (into / target).open("rb") as file:
                left -= _write(file, into, name, left)


def _safe(name: str) -> str:
    """Return a member's name without ``.`` parts and a final slash, if it stays in its place."""
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or _ODD.search(name):
        raise SourceError(
            f"the archive has a member named {name!r}, which would be written elsewhere",
            hint="do not use this archive; get it again from a place you trust",
        )
    if any(len(os.fsencode(part)) > 255 for part in path.parts) or len(name) > 1024:
        raise SourceError(f"the archive has a member with too long a name: {name[:60]!r}…")
    return path.as_posix()


def _target(name: str, link: str) -> str:
    """Resolve a link's text, seen from its own folder."""
    parts: list[str] = []
    for part in (*PurePosixPath(name).parent.parts, *PurePosixPath(link).parts):
        if part != "..":
            parts.append(part)
        elif parts:
            parts.pop()
        else:
            raise _outside(name, link)
    if link.startswith("/"):
        raise _outside(name, link)
    return _safe("/".join(parts))


def _outside(name: str, link: str) -> SourceError:
    return SourceError(
        f"the archive has a link {name!r} that leads out of it, to {link!r}",
        hint="do not use this archive; get it again from a place you trust",
    )


def _is_link(info: zipfile.ZipInfo) -> bool:
    return stat.S_ISLNK(info.external_attr >> 16)


def _readable(info: zipfile.ZipInfo) -> None:
    import zipfile

    if info.flag_bits & 1:
        raise SourceError(
            f"{info.filename!r} in the archive is encrypted",
            hint="unpack it yourself and give the folder as --source",
        )
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise SourceError(
            f"{info.filename!r} in the archive is compressed in an unusual way",
            hint="unpack it yourself and give the folder as --source",
        )
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFLNK):
        raise SourceError(f"{info.filename!r} is a device, not a file")


@contextmanager
def _sound(path: Path) -> Iterator[None]:
    """Turn every way in which an archive can be broken into one error."""
    import lzma
    import struct
    import tarfile
    import zipfile
    import zlib

    damage = (
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        struct.error,
        EOFError,
        RuntimeError,  # too many nested headers; a ZIP's features that Python does not know
        ValueError,
        OverflowError,
    )
    try:
        yield
    except SourceError:
        raise
    except damage as error:
        raise _damaged(path, error) from error
    except OSError as error:
        if str(error.filename) == str(path):
            raise SourceError(f"{path} cannot be read: {error.strerror}") from error
        if error.errno in (None, errno.EINVAL):  # gzip, bz2; a seek to a place that is not there
            raise _damaged(path, error) from error
        raise


def _damaged(path: Path, error: Exception) -> SourceError:
    return SourceError(
        f"{path} is damaged, or no archive that can be read here: {error}",
        hint="get the file again and compare its size or checksum with the original's",
    )
