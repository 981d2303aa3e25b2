"""Put a module where one release of llamafile takes it; nothing that was there is lost.

:func:`plan` decides and writes nothing; :func:`apply` does what was decided.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llamabuild.deliver import folders, inside
from llamabuild.deliver.exchange import Wanted, exchange
from llamabuild.deliver.identify import Llamafile
from llamabuild.deliver.keep import Backups, FileState, Record, digest_of, state_of
from llamabuild.deliver.loading import Attempt, State, attempts, look, stale_sources
from llamabuild.deliver.places import Backend, Loader, Place, loader_of
from llamabuild.errors import DeliveryError
from llamabuild.events import Listener, silent
from llamabuild.source.llamafile import DEVICE

__all__ = ["Delivery", "apply", "plan"]

_FAR = 1 << 62  # nanoseconds: later than anything that lies there


@dataclass(frozen=True)
class Delivery:
    """What will be done.

    :param place: the module's file, or the place inside the llamafile.
    :param sources: names of the sources that will be unpacked beside it, in the loader's order.
    :param replaces: the state of the module that is there now.
    :param hidden_by: what this llamafile takes in place of the module, as long as that is there.
    :param remarks: what its user should know, such as another maker's module that is tried first.
    """

    llamafile: Llamafile
    version: str
    module: Path
    place: Place
    sources: tuple[str, ...]
    replaces: FileState
    hidden_by: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def embeds(self) -> bool:
        """Whether the module goes into the llamafile."""
        return self.place.where == "zip"

    @property
    def target(self) -> Path:
        """The folder, or the llamafile, that changes."""
        return self.llamafile.path if self.embeds else self.place.path.parent


def plan(
    llamafile: Llamafile,
    module: Path,
    *,
    backend: Backend,
    system: str,
    environ: Mapping[str, str],
    cwd: Path,
    embed: bool = False,
) -> Delivery:
    """Decide where a module goes so that this llamafile takes it.

    :param embed: put it into the llamafile, whatever other places there are.
    :raises DeliveryError: no file outside the llamafile would be taken, or the place is refused.
    :raises SourceError: the contents leave open which release it is.
    """
    version = llamafile.version
    loader, order, state = look(llamafile, system, environ, cwd)
    places = [place for place in order if place.backend == backend]
    place = _choose(loader, places, state, llamafile, embed=embed)
    rivals = _rivals(loader, order, state, place)
    if place.where == "zip":
        folders.check_file(llamafile.path)
        return Delivery(
            llamafile,
            version,
            module,
            place,
            (),
            inside.state(llamafile.path, place.path.name),
            tuple(_hiding(rivals, place)),
            (*_beaten(rivals, place), *_advice(loader, llamafile, place, environ, cwd)),
        )
    folder = place.path.parent
    linked = folders.check_folder(folder)
    sources = tuple(stale_sources(llamafile, folder)) if loader.rule == "fresh" else ()
    for name in (*sources, *([DEVICE] if loader.rule == "fresh" else []), place.path.name):
        folders.check_file(folder / name)
    return Delivery(
        llamafile,
        version,
        module,
        place,
        sources,
        state_of(place.path),
        tuple(_hiding(rivals, place)),
        (
            *([linked] if linked else []),
            *_beaten(rivals, place),
            *_advice(loader, llamafile, place, environ, cwd),
        ),
    )


def apply(delivery: Delivery, backups: Backups, notify: Listener = silent) -> Record | None:
    """Do what was decided, and return the record of it; none if all was so already.

    :raises DeliveryError: it is refused, or somebody else installs there at this moment; the
        module that was there is there still.
    """
    path = delivery.place.path
    record = Record(
        "embed" if delivery.embeds else "install",
        str(delivery.llamafile.path),
        delivery.version,
        path.name,
    )
    if delivery.embeds:
        return inside.put(delivery.llamafile.path, delivery.module, backups, record, notify)
    folder = path.parent
    wanted = {name: Wanted(data, 0o644) for name, data in _sources(delivery, folder).items()}
    if not wanted and _there_already(delivery):
        return None
    wanted[path.name] = Wanted(delivery.module)
    folders.make_folder(folder)
    return exchange(folder, path.name, wanted, backups, record)


def _sources(delivery: Delivery, folder: Path) -> dict[str, bytes]:
    """The sources to unpack: what differs, and what would be newer than the module."""
    if loader_of(delivery.version).rule != "fresh":
        return {}
    stale = stale_sources(delivery.llamafile, folder)
    if DEVICE not in stale and _changed(folder / DEVICE) > time.time_ns():
        stale[DEVICE] = delivery.llamafile.contents()[DEVICE]
    return stale


def _there_already(delivery: Delivery) -> bool:
    path = delivery.place.path
    return delivery.replaces.sha256 == digest_of(delivery.module) and _changed(
        path.with_name(DEVICE)
    ) <= _changed(path)


def _changed(path: Path) -> int:
    """A file's time of change in nanoseconds, 0 if there is no such file."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _choose(
    loader: Loader, places: Sequence[Place], state: State, llamafile: Llamafile, *, embed: bool
) -> Place:
    """The first place whose module this llamafile would take before any other of its kind."""
    named: dict[str, Place] = {place.where: place for place in places}
    if embed:
        if llamafile.kind == "folder":
            raise DeliveryError(
                f"{llamafile.path} is a folder: there is no llamafile to embed a module in",
                hint="name the llamafile",
            )
        return named["zip"]
    for where in ("app", "executable"):
        if where in named and _wins(loader, places, state, named[where]):
            return named[where]
    rival = next(iter(attempts(loader, places, state)), None)
    raise DeliveryError(
        f"llamafile takes the module {rival} before any other file"
        if rival
        else "llamafile would take no module from outside",
        hint="--embed puts the new one in its place",
    )


def _wins(loader: Loader, places: Sequence[Place], state: State, place: Place) -> bool:
    """Would a module that was put there be the first of its backend?"""
    first = next(iter(attempts(loader, places, _with(state, place))), None)
    return first is not None and first.place == place and first.how == "loads"


def _with(state: State, place: Place) -> State:
    """What a llamafile finds after an installation in ``place``."""
    if place.where == "zip":
        return replace(state, inside=state.inside | {place.path.name})
    return replace(
        state,
        modules={**state.modules, place.path: _FAR},
        fresh=True,
        sources_time=0,
    )


def _rivals(
    loader: Loader, order: Sequence[Place], state: State, place: Place
) -> tuple[Attempt, ...]:
    """What is tried before a module in ``place``, once it is there."""
    before = []
    for attempt in attempts(loader, order, _with(state, place)):
        if attempt.place == place:
            break
        before.append(attempt)
    return tuple(before)


def _hiding(rivals: Sequence[Attempt], place: Place) -> Iterator[str]:
    for rival in rivals:
        if rival.place.backend == place.backend:
            remedy = ": remove that one, or install without --embed" if rival.how == "loads" else ""
            yield f"still before it comes {rival}{remedy}"


def _beaten(rivals: Sequence[Attempt], place: Place) -> Iterator[str]:
    for rival in rivals:
        if rival.place.backend != place.backend:
            maker, flag = ("AMD", "nvidia") if place.backend == "cuda" else ("NVIDIA", "amd")
            kind = {"rocm": "ROCm", "cuda": "CUDA"}[rival.place.backend]
            yield (
                f"a {kind} module is tried first ({rival}), and wins where {maker}'s driver and "
                f"runtime are installed; --gpu {flag} passes it over"
            )


def _advice(
    loader: Loader, llamafile: Llamafile, place: Place, environ: Mapping[str, str], cwd: Path
) -> Iterator[str]:
    if place.where == "executable":
        yield f"every llamafile 0.10.2 or later in {place.path.parent} will try it first"
    if place.where == "app" and llamafile.kind != "folder":
        if loader.shared:
            yield (
                f"{place.path.parent} is shared by all releases up to 0.8.4: another one of them "
                "that is started replaces what lies there"
            )
        if "TMPDIR" in loader.base and environ.get("TMPDIR"):
            yield "this release looks below TMPDIR: start it with the same one"
        elif not environ.get("HOME") and place.path.is_relative_to(cwd):
            yield f"there is no HOME: start it in {cwd}, or it looks elsewhere"
    if llamafile.kind == "folder" and loader.rule != "present":
        yield "what the llamafile itself holds is unknown: name it instead of its folder to know"
    if loader.source == "reported":
        yield (
            f"that llamafile {loader.first} and later look there is told, not read in their "
            "sources: llamafile's --verbose says which file it loads"
        )
    spoken = {"-ngl", "--gpu", "--n-gpu-layers"} & set(llamafile.arguments)
    if loader.gpu and not spoken:
        yield f"this release uses a GPU only when told: start it with {loader.gpu}"
