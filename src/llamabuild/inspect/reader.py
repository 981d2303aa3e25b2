"""From a file to a :class:`Module`."""

from __future__ import annotations

import hashlib
import mmap
import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

from llamabuild.errors import ModuleRejectedError, UsageError
from llamabuild.inspect import cubin, elf, fatbin
from llamabuild.inspect.image import Damaged, Image
from llamabuild.inspect.model import Entry, Kernel, Module

__all__ = ["read_module"]

_MACHINES = {62: "x86_64", 183: "aarch64", 21: "ppc64le", 243: "riscv64"}
_BINDING_LOCAL, _BINDING_WEAK = 0, 2
_SECTION_SYMBOL = 3

#: Where nvcc puts what the driver may load. ``__nv_relfatbin`` beside it holds the inputs of the
#: device linker (``-rdc``, libcudadevrt), which no driver is handed; cuobjdump leaves it out too.
_FATBIN = ".nv_fatbin"
_RELOCATABLE = "__nv_relfatbin"


def read_module(path: Path) -> Module:
    """Read a GPU module without any GPU tool.

    :raises UsageError: there is no such file, or it cannot be read.
    :raises ModuleRejectedError: it is no shared library, or is damaged.
    """
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise UsageError(f"{path} {what}", hint="Name a shared library (.so or .dll).")
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            if file.tell() == 0:
                raise ModuleRejectedError(f"{path} is empty", hint="Build or fetch it again.")
            # Mapped, not read: a vendor's library can be larger than what is worth holding. Closed
            # with its last view, which the traceback of a damaged file may still hold.
            mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return _read_elf(path, Image(mapped), digest)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except Damaged as error:
        raise ModuleRejectedError(
            f"{path} is damaged or no shared library: {error}",
            hint="Build or fetch it again.",
        ) from error


def _read_elf(path: Path, image: Image, sha256: str) -> Module:
    file = elf.parse(image)
    dynamic = elf.dynamic(file)
    symbols = list(file.dynamic_symbols())
    notes: list[str] = []
    if file.section(_RELOCATABLE) is not None:
        notes.append(f"{_RELOCATABLE}: inputs of the device linker are left out")
    section = file.section(_FATBIN)
    entries = _entries(file.content(section), notes) if section is not None else ()
    return Module(
        path=path,
        format="elf",
        machine=_MACHINES.get(file.machine, str(file.machine)),
        entries=tuple(entries),
        exported=_names(
            symbol for symbol in symbols if symbol.section and symbol.binding != _BINDING_LOCAL
        ),
        undefined=_names(
            symbol
            for symbol in symbols
            if not symbol.section and symbol.binding not in (_BINDING_LOCAL, _BINDING_WEAK)
        ),
        needed=dynamic.needed,
        soname=dynamic.soname,
        runpath=dynamic.runpath,
        glibc=_highest("GLIBC", dynamic.versions),
        glibcxx=_highest("GLIBCXX", dynamic.versions),
        build_id=dynamic.build_id,
        stripped=file.section(".symtab") is None,
        sha256=sha256,
        size_bytes=len(image),
        notes=tuple(dict.fromkeys(notes)),
    )


def _names(symbols: Iterable[elf.Symbol]) -> tuple[str, ...]:
    return tuple(sorted({symbol.name for symbol in symbols if symbol.name}))


def _highest(prefix: str, versions: Iterable[str]) -> str:
    """The numerically highest of "PREFIX_1.2.3"; "GLIBC_PRIVATE" and its like count for nothing."""
    found = [re.fullmatch(rf"{prefix}_(\d{{1,9}}(?:\.\d{{1,9}})*)", text) for text in versions]
    numbers = [match[1] for match in found if match]
    return max(numbers, key=lambda text: [int(part) for part in text.split(".")], default="")


def _entries(section: memoryview, notes: list[str]) -> Iterator[Entry]:
    budget = _Budget(len(section))
    for _, payloads in groupby(fatbin.containers(section), lambda payload: payload.container):
        entries = [_entry(payload, budget, notes) for payload in payloads]
        # The device linker adds a container of cubins without any kernel: a stand-in.
        if any(entry.kernels != () for entry in entries):
            yield from entries


def _entry(payload: fatbin.Payload, budget: _Budget, notes: list[str]) -> Entry:
    names_of = cubin.kernels_of_ptx if payload.kind == "ptx" else cubin.kernels_of_cubin
    kernels = None
    try:
        budget.spend(payload.size)
        kernels = tuple(Kernel(name) for name in names_of(payload.unpack()))
    except (fatbin.Unreadable, Damaged) as error:
        notes.append(f"{payload.kind} {payload.arch}: kernels unknown: {error}")
    return Entry(payload.kind, payload.arch, payload.container, len(payload.packed), kernels)


class _Budget:
    """Bounds what a whole file may unpack to.

    Honest code packs to a tenth of its size, a hostile file's to a thirty-thousandth.
    """

    def __init__(self, section_bytes: int) -> None:
        self._left = (1 << 28) + 64 * section_bytes

    def spend(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise fatbin.Unreadable("the file unpacks to far more than any real one")
