"""What inspection finds in a GPU module."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal

__all__ = ["Entry", "Kernel", "Linkage", "Module", "Trap"]

#: Does a kernel run into a trap instruction that the source put where a GPU lacks something?
#: "suspect": it may; "unknown": its code could not be read.
Trap = Literal["none", "trapped", "suspect", "unknown"]


@dataclass(frozen=True)
class Kernel:
    """A function that the host can launch. ``name`` is as the linker knows it (mangled)."""

    name: str
    trap: Trap = "unknown"


@dataclass(frozen=True)
class Entry:
    """Code for one architecture, in one of the module's containers.

    A container holds one translation unit's code for every architecture; the driver chooses in
    each container by itself.
    """

    kind: Literal["sass", "ptx", "gcn"]
    arch: str  # "61", "90a", "120f", "gfx90a:xnack-"
    container: int
    size_bytes: int  # as it lies in the file, perhaps compressed
    kernels: tuple[Kernel, ...] | None  # None: packed in a way that cannot be read here
    cuda: tuple[int, int] | None = None  # the CUDA that made it, where the code tells

    @property
    def label(self) -> str:
        """As CMake writes it: "61-real", "90-virtual"; an AMD target as it is."""
        suffix = {"sass": "-real", "ptx": "-virtual", "gcn": ""}[self.kind]
        return f"{self.arch}{suffix}"


@dataclass(frozen=True, kw_only=True)
class Linkage:
    """What a shared library offers its host and asks of it."""

    format: Literal["elf", "pe"]
    machine: str  # "x86_64", "aarch64", or a number that nobody here knows
    exported: tuple[str, ...]
    undefined: tuple[str, ...]  # others must define them; weak ones are left out
    needed: tuple[str, ...]
    soname: str
    stripped: bool
    runpath: tuple[str, ...] = ()
    glibc: str = ""  # the highest version asked for ("2.34"); empty where none is
    glibcxx: str = ""
    build_id: str = ""
    cxx_runtime: Literal["static", "shared", ""] = ""  # empty: none, as far as one can see
    ggml_version: str = ""  # what ggml_version() and ggml_commit() in it return
    ggml_commit: str = ""


@dataclass(frozen=True, kw_only=True)
class Module(Linkage):
    """A shared library, and the code for GPUs in it."""

    path: Path
    entries: tuple[Entry, ...]
    sha256: str
    size_bytes: int
    notes: tuple[str, ...]

    @property
    def backend(self) -> Literal["cuda", "hip"] | None:
        """Whose GPUs the code is for; none where there is no GPU code."""
        if not self.entries:
            return None
        return "hip" if self.entries[0].kind == "gcn" else "cuda"

    @property
    def containers(self) -> tuple[tuple[Entry, ...], ...]:
        """The entries, container by container: the driver chooses in each by itself."""
        groups = groupby(self.entries, lambda entry: entry.container)
        return tuple(tuple(entries) for _, entries in groups)

    @property
    def labels(self) -> tuple[str, ...]:
        """Every architecture in the module once, in the order of the file."""
        return tuple(dict.fromkeys(entry.label for entry in self.entries))
