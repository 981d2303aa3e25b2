"""AMD's GPUs as the kernel's compute driver (KFD) lists them in sysfs: no ROCm is needed for this.

Sources: ``kfd_topology.c`` of Linux, which writes the files, and ``libhsakmt/src/topology.c`` of
ROCm/rocm-systems, which reads them for every ROCm program.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from llamabuild.arch import gfx_target
from llamabuild.probe.model import Gpu

__all__ = ["Topology", "facts", "is_there", "may_open", "read_topology"]

#: Kinds of memory that are the GPU's own: seen by the host, or not (HSA_HEAPTYPE_FRAME_BUFFER_…).
_OWN_MEMORY = (1, 2)


@dataclass(frozen=True)
class Topology:
    """What the kernel lists.

    :param gpus: those that a program of this user could use, in ROCm's order. ``arch`` is ""
        before Linux 5.15, whose KFD does not tell.
    :param shut: GPUs that the kernel serves and this process cannot reach.
    :param missing: device files that would be needed for those and are not there.
    :param forbidden: device files that are there and must not be opened by this user.
    :param unreadable: nodes of which the kernel tells this container nothing.
    """

    gpus: tuple[Gpu, ...]
    shut: tuple[Gpu, ...]
    missing: tuple[str, ...]
    forbidden: tuple[str, ...]
    unreadable: int


@cache
def facts() -> dict[str, Any]:
    """The tables of ``amd.toml``."""
    import tomllib

    return tomllib.loads(Path(__file__).with_name("amd.toml").read_text("utf-8"))


def may_open(path: Path) -> bool:
    """Tell whether this user may read and write a device, by its permissions; it is not opened."""
    return os.access(path, os.R_OK | os.W_OK)


def is_there(path: Path) -> bool:
    """Tell whether there is such a file; one that may not be looked at is not."""
    try:
        return path.exists()
    except OSError:
        return False


def read_topology(root: Path, *, may_open: Callable[[Path], bool] = may_open) -> Topology | None:
    """Read the kernel's list of nodes; None where no compute driver runs.

    A node is a processor (no SIMDs) or a GPU. ROCm's runtime leaves out a GPU whose files it may
    not read (another container's) or whose render device is not there, and numbers the others,
    processors included, from 0; that number is ``Gpu.node``.
    """
    folder = root / "sys/class/kfd/kfd/topology/nodes"
    if not is_there(folder):
        return None
    gpus: list[Gpu] = []
    shut: list[Gpu] = []
    missing: set[str] = set()
    forbidden: set[str] = set()
    unreadable = 0
    node = 0
    for place in _in_order(folder):
        properties = _numbers(place / "properties")
        if not properties:
            unreadable += 1
            continue
        if properties.get("simd_count"):
            gpu = _gpu(root, place, properties, index=len(gpus), node=node)
            devices = ("/dev/kfd", f"/dev/dri/renderD{properties.get('drm_render_minor')}")
            absent = {path for path in devices if not is_there(root / path[1:])}
            closed = {path for path in devices if not may_open(root / path[1:])}
            if absent or closed:
                shut.append(gpu)
                missing |= absent
                forbidden |= closed
                continue
            gpus.append(gpu)
        node += 1
    return Topology(
        tuple(gpus), tuple(shut), tuple(sorted(missing)), tuple(sorted(forbidden)), unreadable
    )


def _in_order(folder: Path) -> list[Path]:
    """The nodes' folders, which are named by numbers."""
    places = [place for place in folder.glob("*") if place.name.isdecimal()]
    return sorted(places, key=lambda place: int(place.name))


def _gpu(root: Path, place: Path, properties: Mapping[str, int], *, index: int, node: int) -> Gpu:
    target = gfx_target(properties.get("gfx_target_version", 0))
    integrated = bool(properties.get("cpu_cores_count")) or target in facts()["integrated"]
    memory = sum(
        bank.get("size_in_bytes", 0)
        for bank in map(_numbers, place.glob("mem_banks/*/properties"))
        if bank.get("heap_type") in _OWN_MEMORY
    )
    unique = properties.get("unique_id", 0)
    return Gpu(
        vendor="amd",
        index=index,
        name=_product(root, properties) or f"AMD {_words(place / 'name') or target or 'GPU'}",
        arch=target,
        memory_bytes=memory if memory and not integrated else None,
        driver=_words(root / "sys/module/amdgpu/version")
        or _words(root / "proc/sys/kernel/osrelease"),
        found_via="KFD",
        uuid=f"GPU-{unique:016x}" if unique else "",
        integrated=integrated,
        node=node,
    )


def _product(root: Path, properties: Mapping[str, int]) -> str:
    """The name that is burnt into the card, or that libdrm knows; "" if neither."""
    device = root / f"sys/class/drm/renderD{properties.get('drm_render_minor')}/device"
    if name := _words(device / "product_name"):
        return name
    chip = (properties.get("device_id", -1), _hexadecimal(_words(device / "revision")))
    for path in facts()["names"]:
        for line in _lines(root / path):
            fields = line.split(",", 2)
            if len(fields) == 3 and chip == (_hexadecimal(fields[0]), _hexadecimal(fields[1])):
                return fields[2].strip()
    return ""


def _hexadecimal(text: str) -> int | None:
    try:
        return int(text, 16)
    except ValueError:
        return None


def _numbers(path: Path) -> dict[str, int]:
    """A file of lines such as ``simd_count 128``; what is no such line is left out."""
    fields = (line.split() for line in _lines(path))
    return {field[0]: int(field[1]) for field in fields if len(field) == 2 and field[1].isdecimal()}


def _words(path: Path) -> str:
    return " ".join(" ".join(_lines(path)).split())


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", "replace").splitlines()
    except (OSError, ValueError):
        return []
