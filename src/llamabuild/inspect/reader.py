"""From a file to a :class:`Module`."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from shlex import quote
from zipfile import is_zipfile

from llamabuild.errors import ModuleRejectedError, UsageError
from llamabuild.inspect import amd, cubin, drivers, elf, fatbin, pe, ptx
from llamabuild.inspect.image import Budget, Damaged, Image, Unreadable
from llamabuild.inspect.model import Entry, Module

__all__ = ["read_module"]

#: Where nvcc puts what the driver may load. ``__nv_relfatbin`` beside it holds the inputs of the
#: device linker (``-rdc``, libcudadevrt), which no driver is handed; cuobjdump leaves it out too.
_NVIDIA = ".nv_fatbin"
_RELOCATABLE = "__nv_relfatbin"
_AMD = ".hip_fatbin"


def read_module(path: Path) -> Module:
    """Read a GPU module without any GPU tool.

    :raises UsageError: there is no such file, or it cannot be read.
    :raises ModuleRejectedError: it is no shared library, or is damaged.
    """
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise UsageError(f"{path} {what}", hint="name a shared library (.so or .dll)")
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            if file.tell() == 0:
                raise ModuleRejectedError(f"{path} is empty", hint="build or fetch it again")
            # Mapped, not read: a vendor's library can be larger than what is worth holding. Closed
            # with its last view, which the traceback of a damaged file may still hold.
            mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return _read(path, Image(mapped), digest)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except Damaged as error:
        if is_zipfile(path):
            raise ModuleRejectedError(
                f"{path} is an archive or a llamafile, and no shared library",
                hint=f"llamabuild status {quote(str(path))} shows the modules of a llamafile; "
                "take the one out of an archive",
            ) from error
        raise ModuleRejectedError(
            f"{path} is damaged or no shared library: {error}",
            hint="build or fetch it again",
        ) from error
    except Unreadable as error:
        raise ModuleRejectedError(
            f"{path} cannot be read here: {error}", hint="pip install zstandard"
        ) from error


def _read(path: Path, image: Image, sha256: str) -> Module:
    notes: list[str] = []
    file: pe.Pe | elf.Elf
    if image.data[: len(pe.MAGIC)] == pe.MAGIC:
        file = pe.parse(image)
        linkage = pe.linkage(file)
    else:
        file = elf.parse(image)
        linkage = elf.linkage(file)
    if len(file.find(_RELOCATABLE)):
        notes.append(f"{_RELOCATABLE}: inputs of the device linker are left out")
    budget = Budget(len(image))
    entries = [
        *_with_kernels(_nvidia(file.find(_NVIDIA), budget, notes)),
        *_with_kernels(_amd(file.find(_AMD), budget, notes)),
    ]
    return Module(
        **vars(linkage),
        path=path,
        entries=tuple(entries),
        sha256=sha256,
        size_bytes=len(image),
        notes=tuple(dict.fromkeys(notes)),
    )


def _with_kernels(entries: Iterator[Entry]) -> Iterator[Entry]:
    """Leave out containers without any kernel: stand-ins of the device linker, host code's."""
    for _, group in groupby(entries, lambda entry: entry.container):
        container = list(group)
        if any(entry.kernels != () for entry in container):
            yield from container


def _nvidia(section: memoryview, budget: Budget, notes: list[str]) -> Iterator[Entry]:
    for payload in fatbin.containers(section):
        yield _nvidia_entry(payload, budget, notes)


def _nvidia_entry(payload: fatbin.Payload, budget: Budget, notes: list[str]) -> Entry:
    kernels, cuda = None, None
    try:
        code = payload.unpack(budget)
        if payload.kind == "ptx":
            kernels, cuda = ptx.kernels(code), drivers.cuda_of_ptx(payload.version)
        else:
            kernels, cuda = cubin.kernels(code, payload.number)
    except (Unreadable, Damaged) as error:
        notes.append(f"{payload.kind} {payload.arch}: kernels unknown: {error}")
    return Entry(payload.kind, payload.arch, payload.container, len(payload.packed), kernels, cuda)


def _amd(section: memoryview, budget: Budget, notes: list[str]) -> Iterator[Entry]:
    for found in amd.bundles(section, budget):
        kernels = None
        try:
            kernels = amd.kernels(found.code, found.target)
        except Damaged as error:
            notes.append(f"{found.target}: kernels unknown: {error}")
        yield Entry("gcn", found.target, found.container, len(found.code), kernels)
