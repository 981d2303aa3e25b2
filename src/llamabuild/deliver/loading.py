"""Which module would a llamafile take if it were started now? The rules of ``loaders.toml``."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from llamabuild.deliver.identify import Llamafile
from llamabuild.deliver.places import Backend, Loader, Place, loader_of, search_order
from llamabuild.looking import is_file
from llamabuild.source.llamafile import DEVICE

__all__ = ["Attempt", "State", "attempts", "look", "stale_sources"]

How = Literal["loads", "unpacks", "compiles"]


@dataclass(frozen=True)
class Attempt:
    """A module that a llamafile would try to load.

    ``loads`` the file that is there, ``unpacks`` the one inside the llamafile over it, or
    ``compiles`` one.
    """

    place: Place
    how: How

    def __str__(self) -> str:
        if self.how == "compiles":
            return f"one that it compiles itself, as {self.place}"
        return str(self.place)


@dataclass(frozen=True)
class State:
    """What the rules ask about.

    :param modules: the module files that exist, with their times of change in nanoseconds.
    :param inside: names of the modules in the llamafile.
    :param fresh: whether the unpacked sources are those of the llamafile, byte by byte.
    :param sources_time: the time of change of the unpacked ggml-cuda.cu; none if there is none.
    :param compilers: the backends for which the llamafile would find a compiler.
    """

    modules: Mapping[Path, int] = field(default_factory=dict)
    inside: frozenset[str] = frozenset()
    fresh: bool = False
    sources_time: int | None = None
    compilers: frozenset[Backend] = frozenset()


def attempts(loader: Loader, order: Sequence[Place], state: State) -> tuple[Attempt, ...]:
    """The modules that a llamafile would try, the first one first: the first that loads wins.

    :param order: all of :func:`search_order`, or one backend's part of it.

    One backend's module may not load on a machine of the other's (AMD's runtime is missing), and
    then the other backend's is tried. What a llamafile does after a failure within one backend is
    left out.
    """
    find = {"fresh": _if_fresh, "present": _if_present, "first": _each}[loader.rule]
    found: list[Attempt] = []
    for backend in loader.backends:
        places = [place for place in order if place.backend == backend]
        if places:
            found += find(places, state)
    return tuple(found)


def _if_fresh(places: Sequence[Place], state: State) -> Iterator[Attempt]:
    app, inside = _app_and_zip(places)
    changed = state.modules.get(app.path)
    if (
        changed is not None
        and state.fresh
        and state.sources_time is not None
        and changed >= state.sources_time
    ):
        yield Attempt(app, "loads")
    elif app.backend in state.compilers:
        yield Attempt(app, "compiles")
    elif inside.path.name in state.inside:
        yield Attempt(inside, "unpacks")


def _if_present(places: Sequence[Place], state: State) -> Iterator[Attempt]:
    app, inside = _app_and_zip(places)
    if app.path in state.modules:
        yield Attempt(app, "loads")
    elif inside.path.name in state.inside:
        yield Attempt(inside, "unpacks")
    elif app.backend in state.compilers:
        yield Attempt(app, "compiles")


def _each(places: Sequence[Place], state: State) -> Iterator[Attempt]:
    unpacked = False
    for place in places:
        if place.where == "zip":
            if place.path.name in state.inside:
                unpacked = True
                yield Attempt(place, "unpacks")
        elif place.path in state.modules and not (unpacked and place.where == "app"):
            yield Attempt(place, "loads")


def _app_and_zip(places: Sequence[Place]) -> tuple[Place, Place]:
    app, inside = (next(p for p in places if p.where == where) for where in ("app", "zip"))
    return app, inside


def look(
    llamafile: Llamafile,
    system: str,
    environ: Mapping[str, str],
    cwd: Path,
    version: str | None = None,
) -> tuple[Loader, tuple[Place, ...], State]:
    """Look at everything that decides which module a llamafile would take.

    :raises SourceError: the llamafile cannot be read any more.
    """
    release = version or llamafile.version
    loader = loader_of(release)
    order = search_order(release, system, environ, llamafile.path, cwd)
    if llamafile.kind == "folder":  # named itself: what is known of is all in it
        order = tuple(
            Place("app", place.backend, llamafile.path / place.path.name)
            if place.where == "app"
            else place
            for place in order
            if place.where != "executable"
        )
    app = next(place.path.parent for place in order if place.where == "app")
    cuda = app / DEVICE
    state = State(
        modules={
            place.path: place.path.stat().st_mtime_ns
            for place in order
            if place.where != "zip" and is_file(place.path)
        },
        inside=frozenset(member.name for member in llamafile.modules),
        fresh=loader.rule == "fresh" and not stale_sources(llamafile, app),
        sources_time=cuda.stat().st_mtime_ns if is_file(cuda) else None,
        compilers=_compilers(loader, environ, system),
    )
    return loader, order, state


def stale_sources(llamafile: Llamafile, folder: Path) -> dict[str, bytes]:
    """The sources that a llamafile would unpack into ``folder``: absent there, or other bytes.

    :raises SourceError: the llamafile cannot be read any more.
    """
    return {
        name: data
        for name, data in llamafile.contents().items()
        if _bytes(folder / name, len(data)) != data
    }


def _bytes(path: Path, length: int) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(length + 1)
    except OSError:
        return None


def _compilers(loader: Loader, environ: Mapping[str, str], system: str) -> frozenset[Backend]:
    """For which backends a llamafile with sources would find a compiler (``get_nvcc_path``)."""
    if loader.rule == "first":
        return frozenset()
    suffix = ".exe" if system == "windows" else ""
    cuda = "/opt/cuda" if Path("/opt/cuda").exists() else "/usr/local/cuda"
    rocm = environ.get("HIP_PATH", "/opt/rocm")
    amd = ("amdclang++", "clang++") if system == "windows" else loader.amd
    wanted: Mapping[Backend, tuple[str, Sequence[str]]] = {
        # An empty CUDA_PATH turns the other folders off.
        "cuda": (environ.get("CUDA_PATH", cuda), ["nvcc"]),
        "rocm": (rocm, amd),
    }
    return frozenset(
        backend
        for backend, (folder, names) in wanted.items()
        if any(
            shutil.which(name + suffix, path=environ.get("PATH", ""))
            or (folder and is_file(Path(folder, "bin", name + suffix)))
            for name in names
        )
    )
