"""Decide everything about one module."""

from __future__ import annotations

from llamabuild.arch import CudaArch, HipTarget
from llamabuild.planning import cuda, hip
from llamabuild.planning.choices import choose_flavor
from llamabuild.planning.plan import Plan, tables
from llamabuild.settings import Request
from llamabuild.source import SourceTree, required_symbols
from llamabuild.toolchain import HostCompiler, Machine, Rocm, Toolkit

__all__ = ["make_plan"]


def make_plan(
    request: Request,
    *,
    archs: tuple[CudaArch, ...] | tuple[HipTarget, ...],
    toolkit: Toolkit | Rocm,
    host_compiler: HostCompiler,
    source: SourceTree,
    machine: Machine,
) -> Plan:
    """Decide everything about one module.

    :param archs: of the toolkit's own kind.
    :raises SourceError: the source cannot do what a flag asks, or not in this flavor.
    :raises ToolchainError: the toolkit cannot do what a flag asks.
    """
    flavor = choose_flavor(request, source)
    if isinstance(toolkit, Rocm):
        targets = tuple(arch for arch in archs if isinstance(arch, HipTarget))
        parts = hip.parts(request, targets, toolkit, source, flavor)
    else:
        own_kind = tuple(arch for arch in archs if isinstance(arch, CudaArch))
        archs = cuda.specific(own_kind, toolkit, source)
        parts = cuda.parts(request, archs, toolkit, source, flavor)
    effects = parts.effects
    added = {name for effect in effects for name in effect.add}
    dropped = {name for effect in effects for name in effect.drop}
    linked = tuple(dict.fromkeys(name for effect in effects for name in effect.libraries))
    own = flavor != "backend-dl"
    facts, system = tables(), machine.system
    maker = facts[toolkit.backend]
    host_flags = [
        *facts["host"][system],
        *facts["host"].get(f"{system}-{flavor}", ()),
        *facts["host"].get(f"{flavor}-{machine.processor}", ()),
    ]
    link_flags = list(facts["link"].get(system, ()))
    may_need = [*facts["may_need"][system], *maker["may_need"][system]]
    may_need += facts["may_need"]["with"].get(flavor, ())
    if request.cxx_runtime == "static":
        link_flags += facts["link"].get(f"{system}-static-runtime", ())
        host_flags += facts["host"].get(f"{system}-static-runtime", ())
    else:
        may_need += facts["may_need"]["with"]["shared_runtime"]
    for name in linked:
        may_need += maker["may_need"][name]
    return Plan(
        flavor=flavor,
        module=maker["module"].get(f"{system}-{flavor}", maker["module"][system]),
        archs=archs,
        source=source,
        toolkit=toolkit,
        host_compiler=host_compiler,
        system=f"{system}-{machine.processor}",
        device=tuple(name for name in (*source.device, *sorted(added)) if name not in dropped),
        defines=(
            *(source.defines if own else ()),
            *(define for effect in effects for define in effect.defines),
            *request.defines,
        ),
        device_flags=(*parts.device_flags, *request.nvcc_flags),
        host_flags=tuple(host_flags) if own else (),
        link_flags=tuple(link_flags),
        libraries=(
            *maker["libraries"].get(f"{system}-{flavor}", maker["libraries"][system]),
            *linked,
        ),
        cmake_options=(
            ()
            if own
            else (
                *(f"{name}={value}" for name, value in facts["cmake"].items()),
                *(f"{name}={value}" for name, value in maker["cmake"].items()),
                *(option for effect in effects for option in effect.options),
            )
        ),
        exports=required_symbols(source, flavor),
        may_need=tuple(may_need),
        notes=(*(effect.note for effect in effects if effect.note), *parts.notes),
        warnings=parts.warnings,
    )
