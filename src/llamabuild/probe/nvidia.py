"""Which NVIDIA GPUs programs can see here; and if none, why."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from llamabuild.arch import product_archs
from llamabuild.looking import is_folder
from llamabuild.probe.interfaces import (
    Absent,
    Answer,
    Broken,
    Machine,
    NotRunning,
    device_tree,
    kernel_driver,
    libcuda,
    nvidia_smi,
    nvml,
)
from llamabuild.probe.model import Detection, Gpu, Problem
from llamabuild.probe.pci import has_card

__all__ = ["INTERFACES", "detect_nvidia"]

Interface: TypeAlias = Callable[[Machine], Answer]

#: In the order in which they are asked. The first that knows every GPU's architecture answers.
INTERFACES: tuple[Interface, ...] = (nvml, libcuda, nvidia_smi, device_tree)

_NVIDIA = "0x10de"
_OR_NAME = "or name what to build for, for example --arch 89 or --arch 'rtx 4090'"
_IN_CONTAINER = "in a container, start it with --gpus all"


def detect_nvidia(
    environ: Mapping[str, str],
    *,
    root: Path = Path("/"),
    platform: str = sys.platform,
    interfaces: Sequence[Interface] = INTERFACES,
) -> Detection:
    """Detect the NVIDIA GPUs that a program started with ``environ`` would see.

    CUDA_VISIBLE_DEVICES is honoured as CUDA does it. CUDA counts GPUs in an order of its own (the
    fastest first, unless CUDA_DEVICE_ORDER is PCI_BUS_ID), NVML and nvidia-smi in that of the bus.
    Where this makes a difference to the architectures, libcuda is preferred to either.

    Raises nothing: what is wrong stands in ``problems``.

    :param root: the root of the file system.
    :param platform: as :data:`sys.platform` has it.
    :param interfaces: whom to ask.
    """
    machine = Machine(environ, root, platform)
    mask = environ.get("CUDA_VISIBLE_DEVICES")
    answers: list[Answer] = []
    broken: list[Problem] = []
    idle = False
    for interface in interfaces:
        try:
            answer = _with_names_read(interface(machine))
        except Absent:
            continue
        except NotRunning:
            idle = True
            continue
        except Broken as error:
            broken.append(_broken(str(error), error.hint))
            continue
        if answer.gpus and all(gpu.arch for gpu in answer.gpus) and _counts_right(answer, environ):
            return _masked(answer, mask)
        answers.append(answer)
    with_gpus = [answer for answer in answers if answer.gpus]
    if with_gpus:
        return _masked(with_gpus[0], mask)
    silent = tuple(_broken(one, "") for answer in answers for one in answer.silent)
    problem = broken[0] if broken else _why_none(machine, idle=idle, asked=bool(answers))
    return Detection((), silent or (problem,), None, absent=not (silent or broken or _signs(root)))


def _with_names_read(answer: Answer) -> Answer:
    """Fill in the architectures that an old or a Tegra driver does not tell, by product name."""

    def filled(gpu: Gpu) -> Gpu:
        archs = () if gpu.arch else product_archs(gpu.name)
        return replace(gpu, arch=archs[0]) if len(archs) == 1 else gpu

    return replace(answer, gpus=tuple(filled(gpu) for gpu in answer.gpus))


def _counts_right(answer: Answer, environ: Mapping[str, str]) -> bool:
    """Tell whether an index in CUDA_VISIBLE_DEVICES means the same architecture here."""
    return (
        answer.in_cuda_order
        or environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
        or not re.search(r"(^|,)\s*[0-9]", environ.get("CUDA_VISIBLE_DEVICES", ""))
        or len({gpu.arch for gpu in answer.gpus}) == 1
    )


def _masked(answer: Answer, mask: str | None) -> Detection:
    visible = answer.gpus if mask is None else _visible(answer, mask)
    problems = [_broken(sentence, "") for sentence in answer.silent]
    problems += [
        Problem(
            f"nobody here can tell the architecture of NVIDIA GPU {gpu.index}, {gpu.name!r}",
            "look it up and name it, for example --arch 89",
        )
        for gpu in visible
        if not gpu.arch
    ]
    if not visible:
        count = len(answer.gpus)
        problems.append(
            Problem(
                f"CUDA_VISIBLE_DEVICES={mask!r} hides "
                + ("the NVIDIA GPU" if count == 1 else f"all {count} NVIDIA GPUs")
                + " of this machine",
                f"unset CUDA_VISIBLE_DEVICES, {_OR_NAME}",
            )
        )
    named = tuple(gpu for gpu in visible if gpu.arch)
    return Detection(named, tuple(problems), answer.driver_cuda)


def _visible(answer: Answer, mask: str) -> tuple[Gpu, ...]:
    """Select GPUs as CUDA does.

    Entries are indices or the beginnings of UUIDs. The first one that fits no GPU, or more than
    one, ends the list; one that is there twice makes it void.
    """
    chosen: list[tuple[str, Gpu]] = []
    for entry in mask.split(","):
        found = _select(answer, entry.strip())
        if found is None:
            break
        chosen.append(found)
    parts = [part for part, _ in chosen]
    if len(set(parts)) < len(parts):
        return ()
    return tuple(dict.fromkeys(gpu for _, gpu in chosen))


def _select(answer: Answer, entry: str) -> tuple[str, Gpu] | None:
    """Find what one entry means: the identity of a GPU, or of a part of one, and that GPU."""
    by_uuid = [(gpu.uuid, gpu) for gpu in answer.gpus]
    if entry.startswith("MIG-GPU-"):  # before driver 470: MIG-GPU-<UUID>/<instance>/<instance>
        uuid = entry.removeprefix("MIG-").partition("/")[0]
        found = [(entry, gpu) for gpu in answer.gpus if gpu.uuid == uuid]
    elif entry.startswith("MIG-"):
        parts = [
            (part, gpu) for part, i in answer.partitions for gpu in answer.gpus if gpu.index == i
        ]
        found = [one for one in parts if one[0].startswith(entry)]
    elif entry.startswith("GPU-"):
        found = [one for one in by_uuid if one[0].startswith(entry)]
    else:
        number = re.match(r"\+?[0-9]+", entry)  # as strtoul reads it: "1st" is 1
        found = [
            (f"#{gpu.index}", gpu) for gpu in answer.gpus if number and gpu.index == int(number[0])
        ]
    return found[0] if len(found) == 1 else None


def _broken(reason: str, hint: str) -> Problem:
    return Problem(
        f"the NVIDIA driver is broken: {reason}",
        f"{hint or 'restart the machine, or reinstall the driver'}; {_OR_NAME}",
    )


def _why_none(machine: Machine, *, idle: bool, asked: bool) -> Problem:
    """Say why there is no GPU where nothing failed.

    :param idle: an interface is installed, but no driver runs.
    :param asked: an interface answered that there is none.
    """
    running = kernel_driver(machine.root)
    wsl = is_folder(machine.root / "usr/lib/wsl")
    if not idle and not asked and running:
        return _broken(
            f"version {running} runs in the kernel, but its libraries cannot be found",
            f"{_IN_CONTAINER}; else reinstall the driver",
        )
    if idle and not asked and (running or has_card(machine.root, _NVIDIA)):
        return _broken(
            "it is installed, but does not serve the NVIDIA GPU of this machine",
            f"load it with sudo modprobe nvidia, or restart the machine; {_IN_CONTAINER}",
        )
    if idle or asked:
        return Problem(
            "there is an NVIDIA driver, but no NVIDIA GPU that it could serve",
            ("update NVIDIA's driver in Windows" if wsl else _IN_CONTAINER) + f"; {_OR_NAME}",
        )
    where = "in Windows, outside WSL" if wsl else "https://www.nvidia.com/drivers"
    gpu = "is an NVIDIA GPU, but " if has_card(machine.root, _NVIDIA) else "is "
    return Problem(
        f"there {gpu}no NVIDIA driver on this machine",
        f"install the driver of the GPU ({where}); {_OR_NAME}",
    )


def _signs(root: Path) -> bool:
    """Tell whether there is any sign of NVIDIA's hardware; in Windows and WSL there never is."""
    return bool(kernel_driver(root)) or has_card(root, _NVIDIA)
