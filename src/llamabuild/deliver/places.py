"""Where a release of llamafile looks for its GPU module, in its order (``loaders.toml``). Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from llamabuild import source
from llamabuild.errors import UsageError
from llamabuild.source.flags import SELF_CONTAINED

__all__ = [
    "Backend",
    "Loader",
    "Place",
    "Where",
    "canonical",
    "loader_of",
    "member_name",
    "required_symbols",
    "search_order",
    "system_name",
]

Where = Literal["executable", "zip", "app", "home"]
Backend = Literal["cuda", "rocm"]

_WORDS: Mapping[Where, str] = {
    "executable": "beside the llamafile",
    "zip": "inside the llamafile",
    "app": "in llamafile's own folder",
    "home": "in the home folder",
}
_VERSION = re.compile(r"v?(\d+)\.(\d+)(?:\.(\d+))?")


@dataclass(frozen=True)
class Loader:
    """How a range of releases finds and accepts its module; the fields of ``loaders.toml``."""

    first: str
    base: tuple[str, ...]
    app: str
    order: tuple[Where, ...]
    backends: tuple[Backend, ...]
    rule: Literal["fresh", "present", "first"]
    source: str
    last: str = ""
    gpu: str = ""
    amd: tuple[str, ...] = ()

    @property
    def shared(self) -> bool:
        """Whether other releases use the same folder, and so replace what lies there."""
        return "{version}" not in self.app


@dataclass(frozen=True)
class Place:
    """One file that a loader tries.

    :param path: the module's file; of one inside a llamafile, where it is unpacked to.
    """

    where: Where
    backend: Backend
    path: Path

    def __str__(self) -> str:
        if self.where == "zip":
            return f"{self.path.name} {_WORDS[self.where]}"
        return str(self.path)


def canonical(version: str) -> str:
    """Return a release in three parts, as llamafile itself writes it: ``0.8.0`` for ``0.8``.

    :raises UsageError: it is no number of a release.
    """
    found = _VERSION.fullmatch(version.strip())
    if not found:
        raise UsageError(
            f"{version!r} is no release of llamafile", hint="--llamafile-version 0.8.13"
        )
    return ".".join(str(int(part or 0)) for part in found.groups())


def loader_of(version: str) -> Loader:
    """Return the loader of a release.

    :raises UsageError: the release is older than the interface that modules are built for.
    """
    number = source.release_number
    wanted = number(canonical(version))
    for loader in _loaders():
        if number(loader.first) <= wanted and (not loader.last or wanted <= number(loader.last)):
            return loader
    raise UsageError(
        f"llamafile {version} is not supported: modules can be had for {_loaders()[0].first} and "
        "later",
        hint="use a newer llamafile",
    )


def search_order(
    version: str, system: str, environ: Mapping[str, str], executable: Path, cwd: Path
) -> tuple[Place, ...]:
    """Every file that a release tries when its user names no GPU, in its order.

    :param system: ``linux``, ``macos`` or ``windows``.
    :param executable: the llamafile.
    :param cwd: where it is started from, which matters where no variable names a folder.
    """
    loader = loader_of(version)
    home = _first_set(_facts()["systems"][system]["home"], environ)
    app = _app_folder(loader, canonical(version), system, environ, cwd)
    folders = {"app": app, "zip": app, "executable": executable.parent, "home": home}
    return tuple(
        Place(where, backend, folder / member_name(backend, system))
        for backend in loader.backends
        for where in loader.order
        if (folder := folders[where]) is not None
    )


def member_name(backend: str, system: str) -> str:
    """What a module's file is called: ``ggml-cuda.so``."""
    return f"ggml-{backend}.{_facts()['systems'][system]['extension']}"


def system_name(platform: str) -> str:
    """Return the name that this room gives to a value of ``sys.platform``."""
    return {"win32": "windows", "darwin": "macos"}.get(platform, "linux")


def required_symbols(version: str) -> tuple[str, ...]:
    """What the loader of a release looks up in a module, and refuses it without."""
    release = canonical(version)
    if loader_of(release).rule == "first":
        return SELF_CONTAINED
    return source.loader_symbols(release)


def _app_folder(
    loader: Loader, version: str, system: str, environ: Mapping[str, str], cwd: Path
) -> Path:
    home: Sequence[str] = _facts()["systems"][system]["home"]
    names = [
        name for variable in loader.base for name in (home if variable == "HOME" else [variable])
    ]
    base = _first_set(names, environ) or Path()
    return cwd / base / loader.app.format(version=version)


def _first_set(names: Sequence[str], environ: Mapping[str, str]) -> Path | None:
    return next((Path(environ[name]) for name in names if environ.get(name)), None)


@cache
def _loaders() -> tuple[Loader, ...]:
    entries: list[dict[str, Any]] = _facts()["loader"]
    for entry in entries:
        for name in {"base", "order", "backends", "amd"} & entry.keys():
            entry[name] = tuple(entry[name])
    return tuple(Loader(**entry) for entry in entries)


@cache
def _facts() -> dict[str, Any]:
    import tomllib

    return tomllib.loads(Path(__file__).with_name("loaders.toml").read_text("utf-8"))
