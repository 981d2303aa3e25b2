"""The plan itself: a value that says everything about one module."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from llamabuild.arch import CudaArch, HipTarget
from llamabuild.source import Effect, SourceTree
from llamabuild.toolchain import HostCompiler, Rocm, Toolkit

__all__ = ["RECIPE", "Parts", "Plan", "tables"]

#: Part of every key. Raise it when the same plan would be compiled in another way.
RECIPE = 1


@dataclass(frozen=True)
class Plan:
    """One module to build.

    Pure data: it can be printed (``llamabuild plan``), compared and tested without a compiler.
    Equal plans have equal keys on every machine, whatever the folders are called.

    ``device`` are the CUDA files to compile. ``defines`` and ``device_flags`` reach each of them,
    ``defines`` and ``host_flags`` every C and C++ file. A tree that is built by its own CMake gets
    ``cmake_options`` in place of ``defines``. ``libraries`` are names: the toolkit's (``cuda``,
    ``cudart_static``, ``cublas``; ``amdhip64``, ``hipblas``) and the system's. ``exports`` must be
    found in the finished module, and every library that it needs must match one of ``may_need``
    (shell patterns).
    """

    flavor: str
    module: str
    archs: tuple[CudaArch, ...] | tuple[HipTarget, ...]
    source: SourceTree
    toolkit: Toolkit | Rocm
    host_compiler: HostCompiler
    system: str
    device: tuple[str, ...]
    defines: tuple[str, ...]
    device_flags: tuple[str, ...]
    host_flags: tuple[str, ...]
    link_flags: tuple[str, ...]
    libraries: tuple[str, ...]
    cmake_options: tuple[str, ...]
    exports: tuple[str, ...]
    may_need: tuple[str, ...]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def backend(self) -> str:
        """``cuda`` or ``hip``."""
        return self.toolkit.backend

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
            "device_flags": self.device_flags,
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
            "flags": [*self.device_flags, *self.link_flags],
            "cmake_options": list(self.cmake_options),
            "exports": list(self.exports),
            "notes": [*self.warnings, *self.notes],
        }


@dataclass(frozen=True)
class Parts:
    """What :mod:`.cuda` and :mod:`.hip` say each in their own way."""

    effects: tuple[Effect, ...]
    device_flags: tuple[str, ...]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@cache
def tables() -> dict[str, Any]:
    """The contents of ``facts.toml``."""
    import tomllib

    return tomllib.loads(Path(__file__).with_name("facts.toml").read_text(encoding="utf-8"))
