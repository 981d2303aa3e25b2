"""Every llamafile and module that is found, which module each would take, and whose it is."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llamabuild.deliver import inside
from llamabuild.deliver.identify import Llamafile, Member, identify, is_program
from llamabuild.deliver.keep import digest_of
from llamabuild.deliver.loading import Attempt, attempts, look
from llamabuild.deliver.places import Backend, Place, member_name
from llamabuild.errors import LlamabuildError
from llamabuild.looking import is_file, is_folder

__all__ = ["Found", "Seen", "survey"]

Whose = Literal["ours", "shipped", "unknown"]


@dataclass(frozen=True)
class Found:
    """A module that a llamafile would look at.

    :param path: its file; of one inside a llamafile, the llamafile.
    :param inside: its name in the llamafile; empty for a file.
    :param whose: put there by llamabuild, shipped in the llamafile, or somebody else's: compiled
        by llamafile itself, for example.
    :param turn: its place in the order in which the llamafile tries modules of this backend (1:
        first); none if it would not be tried.
    """

    path: Path
    inside: str
    backend: Backend
    sha256: str
    size_bytes: int
    whose: Whose
    turn: int | None


@dataclass(frozen=True)
class Seen:
    """A llamafile, or a folder of llamafile's, with the modules that it would look at.

    :param problem: why nothing can be said; empty otherwise.
    :param compiles: the backends for which it would compile a module when it is started.
    :param backends: in the order in which it tries them.
    """

    path: Path
    llamafile: Llamafile | None
    modules: tuple[Found, ...] = ()
    compiles: tuple[Backend, ...] = ()
    backends: tuple[Backend, ...] = ()
    problem: str = ""

    def taken(self, gpus: Collection[Backend]) -> Found | None:
        """The module that it would load on a machine, if that module loads there.

        :param gpus: the backends for which the machine has GPUs.
        :returns: none where there is no module, or it would compile one.
        """
        tried = {found.backend for found in self.modules if found.turn} | set(self.compiles)
        first = next((name for name in self.backends if name in tried and name in gpus), None)
        return next((f for f in self.modules if (f.turn, f.backend) == (1, first)), None)


def survey(
    paths: Sequence[Path],
    *,
    ours: Mapping[str, int],
    system: str,
    environ: Mapping[str, str],
    cwd: Path,
    version: str | None = None,
) -> tuple[Seen, ...]:
    """Look at ``paths``, or where llamafiles and their modules usually are.

    :param ours: digests of the modules that llamabuild knows, with their sizes in bytes.
    """
    found = []
    shipped: list[Member] = []
    for path in paths or _usual(system, environ, cwd):
        try:
            llamafile = identify(path, version=version)
            shipped += llamafile.modules
            found.append(_look(llamafile, shipped, ours, system, environ, cwd))
        except LlamabuildError as error:
            found.append(Seen(path, None, problem=f"{error.message} ({error.hint})"))
    return tuple(found)


def _usual(system: str, environ: Mapping[str, str], cwd: Path) -> Iterator[Path]:
    """Yield llamafiles in the working folder, then llamafile's own folders that have a module."""
    for path in sorted(cwd.iterdir()):
        if path.suffix in {".llamafile", ".exe"} and is_file(path) and is_program(path):
            yield path
    names = {member_name(backend, system) for backend in ("cuda", "rocm")}
    bases = [environ[name] for name in ("TMPDIR", "HOME", "USERPROFILE") if environ.get(name)]
    for own in dict.fromkeys(Path(base) / ".llamafile" for base in bases):
        releases = sorted((own / "v").iterdir()) if is_folder(own / "v") else []
        for folder in (own, *releases):
            if any(is_file(folder / name) for name in names):
                yield folder


def _look(
    llamafile: Llamafile,
    shipped: Sequence[Member],
    ours: Mapping[str, int],
    system: str,
    environ: Mapping[str, str],
    cwd: Path,
) -> Seen:
    loader, order, state = look(llamafile, system, environ, cwd)
    tried = attempts(loader, order, state)
    modules = []
    for place in order:
        turn = _turn(tried, place)
        if place.where != "zip" and place.path in state.modules:
            digest, size = digest_of(place.path), place.path.stat().st_size
            whose = _whose(place.path, digest, size, shipped, ours)
            modules.append(Found(place.path, "", place.backend, digest, size, whose, turn))
        for member in llamafile.modules if place.where == "zip" else ():
            if member.name == place.path.name:
                known = member.size_bytes in ours.values()
                digest = inside.state(llamafile.path, member.name).sha256 if known else ""
                whose = "ours" if digest in ours else "shipped"
                size = member.size_bytes
                modules.append(
                    Found(llamafile.path, member.name, place.backend, digest, size, whose, turn)
                )
    compiles = tuple(attempt.place.backend for attempt in tried if attempt.how == "compiles")
    return Seen(llamafile.path, llamafile, tuple(modules), compiles, loader.backends)


def _turn(tried: Sequence[Attempt], place: Place) -> int | None:
    same = [attempt for attempt in tried if attempt.place.backend == place.backend]
    turns = (n for n, a in enumerate(same, 1) if a.place == place and a.how != "compiles")
    return next(turns, None)


def _whose(
    path: Path, digest: str, size: int, shipped: Sequence[Member], ours: Mapping[str, int]
) -> Whose:
    if digest in ours:
        return "ours"
    same = [member for member in shipped if member.size_bytes == size and member.name == path.name]
    if same and _crc(path) in {member.crc for member in same}:
        return "shipped"
    return "unknown"


def _crc(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            value = zlib.crc32(piece, value)
    return value
