"""Would this llamafile load this module, and would this GPU run it?"""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable

from llamabuild import deliver, inspect
from llamabuild.arch import CudaArch, HipTarget
from llamabuild.deliver.places import canonical, loader_of
from llamabuild.errors import DeliveryError, ModuleRejectedError
from llamabuild.inspect import Coverage, Module
from llamabuild.inspect.hosts import flavor
from llamabuild.pipeline.serving import serves
from llamabuild.source import loaders, release_number
from llamabuild.store import Store

__all__ = ["fits", "misfit", "refuse_unfit", "refuse_unserving", "sources_of"]

_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
_FORMATS = {"windows": "pe"}
_NOTHING_RUNS = "nothing runs: there is no code for it"


def fits(module: Module, version: str, *, embed: bool, made_of: str | None) -> tuple[str, ...]:
    """Refuse a module that a release of llamafile cannot load, or would crash with.

    :param embed: the module may be for another machine, where the llamafile will run.
    :param made_of: the release of its sources, or a range of them; none where nobody knows.
    :raises DeliveryError: with the reason.
    :returns: what its user should know.
    """
    reason = _unfit(module, version, embed=embed)
    if not reason:
        reason, doubt = _other_layout(module, version, made_of)
        if not reason:
            return (doubt,) if doubt else ()
    raise DeliveryError(
        f"llamafile {version} cannot use {module.path.name}: {reason}",
        hint="build one for it: llamabuild install LLAMAFILE without --module",
    )


def sources_of(module: Module, store: Store) -> str | None:
    """The llamafile release of a module's sources, or a range of them, where the cache has it."""
    for entry in store.entries():
        manifest = entry.artifact.manifest
        if manifest["sha256"] == module.sha256 and manifest["source"]["kind"] == "llamafile":
            return manifest["source"]["version"] or None
    return None


def refuse_unserving(planned: Iterable[CudaArch | HipTarget], name: str, architecture: str) -> None:
    """Refuse, before it is built, a module of which nothing would run on a GPU.

    Which kernels would give up there, only the finished module tells: :func:`refuse_unfit`.

    :raises ModuleRejectedError: in the same words.
    """
    if not serves(planned, architecture):
        raise _rejected(name, architecture, _NOTHING_RUNS)


def refuse_unfit(module: Module, name: str, architecture: str) -> None:
    """Refuse a module that does not do all its work on a GPU.

    :raises ModuleRejectedError: with the reason.
    """
    reason = misfit(inspect.coverage(module, architecture))
    if reason:
        raise _rejected(name, architecture, reason)


def misfit(coverage: Coverage) -> str:
    """Why a module does not do all its work on a GPU; empty if it does."""
    if coverage.healthy:
        return ""
    if coverage.runs == "no":
        return _NOTHING_RUNS
    taken = ", ".join(coverage.entries)
    if coverage.trapped:
        return (
            f"{len(coverage.trapped)} of {coverage.kernels} kernels give up in the code for "
            f"{taken}, which the driver would take"
        )
    if coverage.missing:
        return f"{len(coverage.missing)} kernels are missing in the code for {taken}"
    return f"nobody can tell which kernels give up in the code for {taken}"


def _rejected(name: str, architecture: str, reason: str) -> ModuleRejectedError:
    return ModuleRejectedError(
        f"on {name} ({architecture}), {reason}; nothing was installed",
        hint=f"build it for {architecture}: leave --module and --arch out, or --arch "
        f"{architecture}",
    )


def _unfit(module: Module, version: str, *, embed: bool) -> str:
    if not embed and (foreign := _foreign(module)):
        return foreign
    kind, wanted = flavor(module), _flavor_of(version)
    if kind != wanted:
        return f"it is {_article(kind)} module, and a {wanted} one is needed"
    exported = set(module.exported)
    if absent := [name for name in deliver.required_symbols(version) if name not in exported]:
        return f"it does not export {', '.join(absent)}, which llamafile looks up"
    return ""


def _other_layout(module: Module, version: str, made_of: str | None) -> tuple[str, str]:
    """Why the module's data layout is not the release's; and else, why that is not certain.

    The layouts that its functions leave open are one, where the release of its sources is known.
    """
    ranges = loaders(module.exported)
    if made_of is not None:
        made = release_number(canonical(made_of.split("-")[0]))
        if made == release_number(version):
            return "", ""
        ranges = tuple(pair for pair in ranges if _within(made, pair))
    known = " or ".join(
        first if last in {first, ""} else f"{first} to {last}" for first, last in ranges
    )
    if not any(_within(release_number(version), pair) for pair in ranges):
        of = f"llamafile {made_of}" if made_of else f"llamafile {known or 'unknown'}"
        return f"it is of the sources of {of}, whose data layout is another", ""
    if len(ranges) > 1:
        return (
            "",
            f"by its functions the module is for llamafile {known}: only one of them is right",
        )
    return "", ""


def _foreign(module: Module) -> str:
    system = deliver.system_name(sys.platform)
    if module.format != _FORMATS.get(system, "elf"):
        return f"it is a {module.format.upper()} file, which {system} does not load"
    machine = platform.machine().lower()
    if module.machine != _MACHINES.get(machine, machine):
        return f"it is for {module.machine}, and this machine is {machine}"
    return ""


def _flavor_of(version: str) -> str:
    return "self-contained" if loader_of(version).rule == "first" else "classic"


def _article(kind: str | None) -> str:
    return "no ggml" if kind is None else f"a {kind}"


def _within(number: tuple[int, ...], pair: tuple[str, str]) -> bool:
    first, last = pair
    return release_number(first) <= number and (not last or number <= release_number(last))
