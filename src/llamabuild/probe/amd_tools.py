"""ROCm's own tools, which are asked where the kernel's list is not there or does not tell.

They are asked without what would hide a GPU or rename it (HIP_VISIBLE_DEVICES,
HSA_OVERRIDE_GFX_VERSION): what is there is one question, what programs see another.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from llamabuild import run
from llamabuild.probe.amd_topology import facts, is_there
from llamabuild.probe.interfaces import Machine
from llamabuild.probe.model import Gpu

__all__ = ["amdgpu_arch", "on_wsl", "rocminfo"]

#: Seconds. A runtime that wakes eight sleeping GPUs takes several; a broken one takes for ever.
PATIENCE = 30.0

_AGENT = re.compile(r"^\*+\nAgent [0-9]+ *\n\*+\n", re.MULTILINE)
_FIELD = re.compile(r"^ {2}([A-Z][A-Za-z ]*): +(\S.*?) *$", re.MULTILINE)
_TARGET = re.compile(r"gfx[0-9]{2,3}[0-9a-f]")
_POOL = re.compile(r"Segment: +GLOBAL.*\n *Size: +([0-9]+)\([^)]*\) *KB")


def rocminfo(machine: Machine) -> tuple[Gpu, ...]:
    """Ask ROCm's runtime through its own report; no GPUs where it is not there or cannot tell."""
    return tuple(_agents(_output(machine, "rocminfo")))


def amdgpu_arch(machine: Machine) -> tuple[Gpu, ...]:
    """Ask the tool behind ``--offload-arch=native``, which prints a target for each GPU."""
    targets = [line.partition(":")[0].strip() for line in _output(machine, "amdgpu-arch").split()]
    return tuple(
        _gpu(index, f"AMD {target}", target, "amdgpu-arch")
        for index, target in enumerate(filter(_TARGET.fullmatch, targets))
    )


def on_wsl(root: Path) -> bool:
    """Tell whether this is Linux inside Windows, where GPUs are reached through /dev/dxg."""
    return is_there(root / "dev/dxg")


def _agents(report: str) -> Iterator[Gpu]:
    """The GPUs in rocminfo's report. Modes (xnack, sramecc) are left out: see :func:`_gpu`."""
    index = 0
    for text in _AGENT.split(report)[1:]:
        fields: dict[str, str] = dict(_FIELD.findall(text))
        target = fields.get("Name", "")
        if fields.get("Device Type") != "GPU" or not _TARGET.fullmatch(target):
            continue
        pool, node, uuid = _POOL.search(text), fields.get("Node", ""), fields.get("Uuid", "")
        yield _gpu(
            index,
            fields.get("Marketing Name", f"AMD {target}"),
            target,
            "rocminfo",
            memory=int(pool[1]) * 1024 if pool else None,
            uuid="" if uuid == "GPU-XX" else uuid,
            node=int(node) if node.isdecimal() else None,
        )
        index += 1


def _gpu(
    index: int,
    name: str,
    target: str,
    found_via: str,
    *,
    memory: int | None = None,
    uuid: str = "",
    node: int | None = None,
) -> Gpu:
    """Make a GPU of what a tool tells.

    The target has no modes, as in the kernel's list: code for plain gfx90a runs in every mode, and
    the same GPU must ask for the same code whoever names it.
    """
    integrated = target in facts()["integrated"]
    return Gpu(
        vendor="amd",
        index=index,
        name=name,
        arch=target,
        memory_bytes=None if integrated else memory,
        driver="",
        found_via=found_via,
        uuid=uuid,
        integrated=integrated,
        node=node,
    )


def _output(machine: Machine, program: str) -> str:
    tool = _find(machine, program)
    if tool is None:
        return ""
    env = {
        name: value
        for name, value in machine.environ.items()
        if name not in facts()["hiding"] and not name.startswith("HSA_OVERRIDE_GFX_VERSION")
    }
    if on_wsl(machine.root):  # ROCm before 7.13 looks for /dev/dxg only when it is told to
        env.setdefault("HSA_ENABLE_DXG_DETECTION", "1")
    try:
        result = run.capture([tool], env=env, timeout=PATIENCE)
    except (run.CannotStart, run.TimedOut):
        return ""
    return result.stdout if result.returncode == 0 else ""


def _find(machine: Machine, program: str) -> Path | None:
    if machine.platform == "win32":
        program += ".exe"
    folders = [Path(part) for part in machine.environ.get("PATH", "").split(os.pathsep) if part]
    named = [machine.environ.get(name, "") for name in ("ROCM_PATH", "HIP_PATH")]
    roots = [Path(name) for name in named if name] + sorted((machine.root / "opt").glob("rocm*"))
    folders += [root / folder for root in roots for folder in facts()["folders"]]
    return next((place for folder in folders if is_there(place := folder / program)), None)
