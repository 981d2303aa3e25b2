"""Which AMD GPUs programs can see here; and if none, why."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from llamabuild.arch import gfx_version
from llamabuild.probe.amd_tools import amdgpu_arch, on_wsl, rocminfo
from llamabuild.probe.amd_topology import Topology, is_there, may_open, read_topology
from llamabuild.probe.interfaces import Machine
from llamabuild.probe.model import Detection, Gpu, Problem
from llamabuild.probe.pci import has_card

__all__ = ["detect_amd"]

_AMD = "0x1002"
_OR_NAME = "or name what to build for, for example --arch gfx1100 or --arch 'rx 7900 xtx'"
_DEVICES = "--device=/dev/kfd --device=/dev/dri"
_DXG = "HSA_ENABLE_DXG_DETECTION=1 rocminfo"


def detect_amd(
    environ: Mapping[str, str],
    *,
    root: Path = Path("/"),
    platform: str = sys.platform,
    may_open: Callable[[Path], bool] = may_open,
) -> Detection:
    """Detect the AMD GPUs that a HIP program started with ``environ`` would see.

    The kernel is asked first (KFD's topology in sysfs), then rocminfo, then amdgpu-arch.
    ROCR_VISIBLE_DEVICES and HIP_VISIBLE_DEVICES (CUDA_VISIBLE_DEVICES, if that is empty) are
    honoured as ROCm's runtime and HIP do it: the first chooses by number or UUID among all GPUs,
    the second among what the first has left.

    ``arch`` is always the GPU's own target: HSA_OVERRIDE_GFX_VERSION, by which programs would take
    it for another, is a problem that is told.

    Raises nothing: what is wrong stands in ``problems``.

    :param root: the root of the file system.
    :param platform: as :data:`sys.platform` has it.
    :param may_open: whether this user may read and write a device file.
    """
    machine = Machine(environ, root, platform)
    topology = read_topology(root, may_open=may_open)
    gpus = topology.gpus if topology else ()
    if not _all_known(gpus) and _tools_may_know(machine, topology):
        gpus = _from_tools(machine) or gpus
    if not gpus:
        return Detection((), (_why_none(machine, topology),), None, absent=_is_absent(root))
    visible, problems = _visible(gpus, environ)
    for gpu in visible:
        if not gpu.arch:
            problems.append(_unknown(gpu))
        elif problem := _overridden(gpu, environ):
            problems.append(problem)
    return Detection(tuple(gpu for gpu in visible if gpu.arch), tuple(problems), None)


def _all_known(gpus: Iterable[Gpu]) -> bool:
    listed = [gpu.arch for gpu in gpus]
    return bool(listed) and all(listed)


def _tools_may_know(machine: Machine, topology: Topology | None) -> bool:
    """On Linux, ROCm's tools see no more than KFD does, except through Windows' /dev/dxg."""
    if machine.platform != "linux" or on_wsl(machine.root):
        return True
    return topology is not None and bool(topology.gpus)


def _from_tools(machine: Machine) -> tuple[Gpu, ...]:
    return rocminfo(machine) or amdgpu_arch(machine)


# --- what is visible ------------------------------------------------------------------------------


def _visible(gpus: Sequence[Gpu], environ: Mapping[str, str]) -> tuple[list[Gpu], list[Problem]]:
    """Select GPUs as ROCm's runtime and then HIP do."""
    chosen = list(gpus)
    for name, rule in (("ROCR_VISIBLE_DEVICES", _by_runtime), (_hip_mask(environ), _by_hip)):
        before, chosen = chosen, rule(chosen, environ.get(name)) if name else chosen
        if not chosen:
            count = "the AMD GPU" if len(before) == 1 else f"all {len(before)} AMD GPUs"
            message = f"{name}={environ[name]!r} hides {count} of this machine"
            return [], [Problem(message, f"unset {name}, {_OR_NAME}")]
    return chosen, []


def _hip_mask(environ: Mapping[str, str]) -> str:
    """The variable that HIP heeds: an empty one counts as none. Source: ``rocdevice.cpp``, clr."""
    names = ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
    return next((name for name in names if environ.get(name)), "")


def _by_runtime(gpus: Sequence[Gpu], mask: str | None) -> list[Gpu]:
    """Entries are numbers or the beginnings of UUIDs; the first that is wrong ends the list.

    One that is there twice is wrong, too. Set and empty hides everything.
    Source: ``amd_filter_device.cpp`` of ROCr.
    """
    if mask is None:
        return list(gpus)
    chosen: list[Gpu] = []
    for entry in mask.split(","):
        gpu = _select(gpus, entry.strip())
        if gpu is None or gpu in chosen:
            break
        chosen.append(gpu)
    return chosen


def _by_hip(gpus: Sequence[Gpu], mask: str | None) -> list[Gpu]:
    """As :func:`_by_runtime`, but a GPU that is there twice is there once."""
    chosen: dict[Gpu, None] = {}
    for entry in (mask or "").split(","):
        gpu = _select(gpus, entry)
        if gpu is None:
            break
        chosen[gpu] = None
    return list(chosen)


def _select(gpus: Sequence[Gpu], entry: str) -> Gpu | None:
    if entry.upper().startswith("GPU-"):
        found = [gpu for gpu in gpus if gpu.uuid.upper().startswith(entry.upper())]
    else:
        found = [gpu for place, gpu in enumerate(gpus) if str(place) == entry]
    return found[0] if len(found) == 1 else None


# --- what is wrong --------------------------------------------------------------------------------


def _unknown(gpu: Gpu) -> Problem:
    return Problem(
        f"nobody here can tell the target of AMD GPU {gpu.index}, {gpu.name!r}",
        "update the kernel (5.15 or later tells) or install rocminfo; or look the target up and "
        "name it, for example --arch gfx1030",
    )


def _overridden(gpu: Gpu, environ: Mapping[str, str]) -> Problem | None:
    """Warn where programs take a GPU for another one, and so pass over code made for it.

    An empty variable is not the same as none: ROCm reads no version from it, and gives up the GPU
    (ROCm/ROCR-Runtime#354, mended in 2026).
    """
    names = (f"HSA_OVERRIDE_GFX_VERSION_{gpu.node}", "HSA_OVERRIDE_GFX_VERSION")
    name = next((name for name in names if name in environ), names[0])
    version = environ.get(name, gfx_version(gpu.arch))
    if version == gfx_version(gpu.arch):
        return None
    card = f"AMD GPU {gpu.index} ({gpu.arch})"
    return Problem(
        f"{name}={version} makes programs take {card} for another one"
        if version
        else f"{name} is set and empty, for which many releases of ROCm give up {card}",
        f"unset {name} where code for {gpu.arch} is used; llamabuild env MODULE tells what "
        "a module needs",
    )


def _why_none(machine: Machine, topology: Topology | None) -> Problem:
    """Say why there is no GPU that programs could use."""
    if topology is not None and topology.shut:
        return _why_shut(topology)
    if topology is not None and topology.unreadable:
        return Problem(
            "the kernel serves an AMD GPU, and this container may not use it",
            f"start the container with {_DEVICES}; {_OR_NAME}",
        )
    if on_wsl(machine.root):
        return Problem(
            "this is WSL, and ROCm does not tell of an AMD GPU in Windows",
            f"install AMD's driver in Windows and ROCm with librocdxg here, then try: {_DXG}; "
            f"{_OR_NAME}",
        )
    if machine.platform != "linux":
        return Problem(
            "neither rocminfo nor amdgpu-arch is here to tell of an AMD GPU",
            f"install AMD's HIP SDK; {_OR_NAME}",
        )
    return _why_no_driver(machine.root, topology)


def _why_no_driver(root: Path, topology: Topology | None) -> Problem:
    """Say how far Linux got with whatever card is plugged in."""
    if not has_card(root, _AMD):
        return Problem("there is no AMD GPU in this machine", _OR_NAME.removeprefix("or "))
    if topology is not None:
        return Problem(
            "there is an AMD GPU, but its driver does not offer it for computing",
            "see what dmesg says about amdgpu and kfd: the GPU may be too old, or lack PCIe "
            f"atomics in this slot; {_OR_NAME}",
        )
    if is_there(root / "sys/module/amdgpu"):
        return Problem(
            "the amdgpu driver runs without its compute part: there is no /sys/class/kfd",
            f"use a kernel with CONFIG_HSA_AMD, as distributions have it; {_OR_NAME}",
        )
    return Problem(
        "there is an AMD GPU, but the amdgpu driver is not loaded",
        f"sudo modprobe amdgpu, and see what dmesg says of it; {_OR_NAME}",
    )


def _why_shut(topology: Topology) -> Problem:
    """The kernel serves a GPU and this process cannot reach it."""
    targets = ", ".join(dict.fromkeys(gpu.arch for gpu in topology.shut if gpu.arch))
    there = f"there is an AMD GPU ({targets or topology.shut[0].name})"
    build = f"; to build for it, --arch {targets.replace(', ', ',')} will do" if targets else ""
    if topology.missing:
        files = " and ".join(topology.missing)
        verb = "is" if len(topology.missing) == 1 else "are"
        return Problem(
            f"{there}, but {files} {verb} not here, as in a container that was started without",
            f"start the container with {_DEVICES}{build}",
        )
    return Problem(
        f"{there}, but this user may not open {' and '.join(topology.forbidden)}",
        "sudo usermod -aG render,video $USER, then log in again; in a container, start it with "
        f"{_DEVICES} and --group-add for the group of these files{build}",
    )


def _is_absent(root: Path) -> bool:
    """Tell whether there is no sign of AMD's hardware; in Windows, WSL and macOS there never is."""
    return not is_there(root / "sys/class/kfd") and not has_card(root, _AMD)
