"""What will be built, decided completely before anything runs.

A :class:`Plan` is pure data: it can be printed (``llamabuild plan``), compared and tested without
a compiler. Equal plans have equal keys on every machine, whatever the folders are called.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from llamabuild.arch import CudaArch
from llamabuild.errors import SourceError, ToolchainError
from llamabuild.settings import Request
from llamabuild.source import Effect, SourceTree, flag_effects, required_symbols
from llamabuild.toolchain import HostCompiler, Machine, Toolkit

__all__ = ["RECIPE", "Plan", "make_plan", "needs_cublas"]

#: Part of every key. Raise it when the same plan would be compiled in another way.
RECIPE = 1


@dataclass(frozen=True)
class Plan:
    """One module to build.

    ``device`` are the CUDA files to compile. ``defines`` and ``nvcc_flags`` reach each of them,
    ``defines`` and ``host_flags`` every C and C++ file. A tree that is built by its own CMake gets
    ``cmake_options`` in place of ``defines``. ``libraries`` are names: the toolkit's (``cuda``,
    ``cudart_static``, ``cublas``) and the system's. ``exports`` must be found in the finished
    module, and every library that it needs must match one of ``may_need`` (shell patterns).
    """

    flavor: str
    module: str
    archs: tuple[CudaArch, ...]
    source: SourceTree
    toolkit: Toolkit
    host_compiler: HostCompiler
    system: str
    device: tuple[str, ...]
    defines: tuple[str, ...]
    nvcc_flags: tuple[str, ...]
    host_flags: tuple[str, ...]
    link_flags: tuple[str, ...]
    libraries: tuple[str, ...]
    cmake_options: tuple[str, ...]
    exports: tuple[str, ...]
    may_need: tuple[str, ...]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    backend: str = "cuda"

    @property
    def key(self) -> str:
        """Digest of everything that decides the module's contents; 32 hexadecimal digits."""
        decisive = {
            "recipe": RECIPE,
            "source": self.source.digest,
            "flavor": self.flavor,
            "backend": self.backend,
            "module": self.module,
            "archs": [str(arch) for arch in self.archs],
            "toolkit": self.toolkit.identity,
            "host_compiler": f"{self.host_compiler.kind} {self.host_compiler.version}",
            "system": self.system,
            "device": self.device,
            "defines": self.defines,
            "nvcc_flags": self.nvcc_flags,
            "host_flags": self.host_flags,
            "link_flags": self.link_flags,
            "libraries": self.libraries,
            "cmake_options": self.cmake_options,
        }
        text = json.dumps(decisive, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def describe(self) -> dict[str, Any]:
        """The plan as JSON values: what ``plan --json`` and the manifest show."""
        return {
            "key": self.key,
            "archs": [str(arch) for arch in self.archs],
            "flavor": self.flavor,
            "backend": self.backend,
            "module": self.module,
            "source": {
                "kind": self.source.kind,
                "version": self.source.version,
                "digest": self.source.digest,
            },
            "toolkit": {
                "version": self.toolkit.version,
                "path": str(self.toolkit.root),
                "found_via": self.toolkit.found_via,
            },
            "host_compiler": {
                "kind": self.host_compiler.kind,
                "version": self.host_compiler.version,
                "path": str(self.host_compiler.path),
            },
            "defines": list(self.defines),
            "flags": [*self.nvcc_flags, *self.link_flags],
            "cmake_options": list(self.cmake_options),
            "exports": list(self.exports),
            "notes": [*self.warnings, *self.notes],
        }


def needs_cublas(request: Request, source: SourceTree) -> bool:
    """Whether the module will link cuBLAS: the toolkit is chosen by it."""
    return "cublas" in _blas(request, source, _flavor(request, source)).libraries


def make_plan(
    request: Request,
    *,
    archs: tuple[CudaArch, ...],
    toolkit: Toolkit,
    host_compiler: HostCompiler,
    source: SourceTree,
    machine: Machine,
) -> Plan:
    """Decide everything about one module.

    :raises SourceError: the source cannot do what a flag asks, or not in this flavor.
    :raises ToolchainError: the toolkit cannot do what a flag asks.
    """
    flavor = _flavor(request, source)
    effects = _effects(request, source, flavor, toolkit)
    added = {name for effect in effects for name in effect.add}
    dropped = {name for effect in effects for name in effect.drop}
    cublas = any("cublas" in effect.libraries for effect in effects)
    own = flavor != "backend-dl"
    facts, system = _facts(), machine.system
    host_flags = [
        *facts["host"][system],
        *facts["host"].get(f"{system}-{flavor}", ()),
        *facts["host"].get(f"{flavor}-{machine.processor}", ()),
    ]
    link_flags = list(facts["link"].get(system, ()))
    may_need = [*facts["may_need"][system], *facts["may_need"]["with"].get(flavor, ())]
    if request.cxx_runtime == "static":
        link_flags += facts["link"].get(f"{system}-static-runtime", ())
        host_flags += facts["host"].get(f"{system}-static-runtime", ())
    else:
        may_need += facts["may_need"]["with"]["shared_runtime"]
    if cublas:
        may_need += facts["may_need"]["with"]["cublas"]
    return Plan(
        flavor=flavor,
        module=facts["module"].get(f"{system}-{flavor}", facts["module"][system]),
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
        nvcc_flags=(
            *(f"-gencode={arch.gencode()}" for arch in archs if own),
            *(source.nvcc_flags if own else ()),
            *(flag for effect in effects for flag in effect.nvcc),
            *request.nvcc_flags,
        ),
        host_flags=tuple(host_flags) if own else (),
        link_flags=tuple(link_flags),
        libraries=(
            *facts["libraries"].get(f"{system}-{flavor}", facts["libraries"][system]),
            *(("cublas",) if cublas else ()),
        ),
        cmake_options=(
            ()
            if own
            else (
                *(f"{name}={value}" for name, value in facts["cmake"].items()),
                *(option for effect in effects for option in effect.options),
            )
        ),
        exports=required_symbols(source, flavor),
        may_need=tuple(may_need),
        notes=tuple(effect.note for effect in effects if effect.note)
        + (_cublas_note(toolkit) if cublas else ()),
        warnings=_passed_levels(archs, source.levels),
    )


def _passed_levels(archs: tuple[CudaArch, ...], levels: tuple[int, ...]) -> tuple[str, ...]:
    """Say which GPUs would run code made for an older one where the source has other code for them.

    A GPU runs the machine code of its major version that is nearest below it: this is how a 6.1
    card came to run 6.0 code, in which every kernel that needs DP4A gives up.
    """
    warnings = []
    for level in levels:
        below = [
            arch.number
            for arch in archs
            if not (arch.virtual or arch.suffix) and arch.major == level // 10
        ]
        nearest = max((number for number in below if number <= level), default=level)
        if nearest < level:
            card, code = CudaArch(level).capability, CudaArch(nearest).capability
            warnings.append(
                f"GPUs of {card} would run the code for {code}, and the source changes its code "
                f"at {card}: add {level} to --arch"
            )
    return tuple(warnings)


def _flavor(request: Request, source: SourceTree) -> str:
    flavor = request.flavor or source.flavors[0]
    if flavor not in source.flavors:
        raise SourceError(
            f"{source.origin} cannot be built as {flavor}: it is a "
            f"{source.kind} source of the {source.layout} layout",
            hint=f"--flavor {' or '.join(source.flavors)}",
        )
    return flavor


def _effects(
    request: Request, source: SourceTree, flavor: str, toolkit: Toolkit
) -> tuple[Effect, ...]:
    """What each flag of the request means to this source; a flag that means nothing is refused."""
    known = flag_effects(source, flavor)
    fast_math = source.fast_math if request.fast_math is None else request.fast_math
    asked = {
        "--force-mmq": "force-mmq" if request.force_mmq else "",
        "--force-cublas": "force-cublas" if request.force_cublas else "",
        "--no-iq": "no-iq" if request.no_iq else "",
        f"--fa {request.fa}": f"fa={request.fa}",
        f"--{'' if fast_math else 'no-'}fast-math": "fast-math" if fast_math else "no-fast-math",
    }
    effects = [_blas(request, source, flavor)]
    for flag, name in asked.items():
        if name:
            effects.append(_supported(flag, known[name], source))
    if request.compress is not None:
        effects.append(_compression(request.compress, known["compress"], source, toolkit))
    return tuple(effects)


def _blas(request: Request, source: SourceTree, flavor: str) -> Effect:
    """Take tinyBLAS where the source has it, unless cuBLAS is asked for."""
    known = flag_effects(source, flavor)
    if request.blas is None and not request.force_cublas:
        tiny = known["blas=tiny"]
        return known["blas=cublas"] if tiny.unsupported else tiny
    name = request.blas or "cublas"
    return _supported(f"--blas {name}", known[f"blas={name}"], source)


def _supported(flag: str, effect: Effect, source: SourceTree) -> Effect:
    if effect.unsupported:
        raise SourceError(
            f"{flag}: {source.origin} cannot do that: {effect.unsupported}",
            hint=f"leave {flag.split(maxsplit=1)[0]} out",
        )
    return effect


def _compression(mode: str, effect: Effect, source: SourceTree, toolkit: Toolkit) -> Effect:
    """``--compress`` needs an nvcc that has modes; older ones compress in one way only."""
    if not toolkit.compress_mode:
        raise ToolchainError(
            f"--compress {mode}: {toolkit.label} has no compression modes",
            hint="use CUDA 12.8 or newer, or leave --compress out",
        )
    effect = _supported(f"--compress {mode}", effect, source)
    return Effect(
        nvcc=tuple(flag + mode for flag in effect.nvcc),
        options=tuple(option + mode for option in effect.options),
    )


def _cublas_note(toolkit: Toolkit) -> tuple[str, ...]:
    assert toolkit.cublas is not None
    return (f"the module needs {toolkit.cublas.soname} where it runs",)


@cache
def _facts() -> Mapping[str, Any]:
    import tomllib

    return tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
