"""The environment in which a program finds code for the GPUs of this machine in a module.

A GPU takes code for its own target only. One that the module has none for may be told to pass for
its kin (HSA_OVERRIDE_GFX_VERSION); one that cannot is left out (HIP_VISIBLE_DEVICES), because a
program that spreads its work over all GPUs would fail on it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from llamabuild import arch, inspect, probe
from llamabuild.arch import Override
from llamabuild.errors import ArchitectureError, UsageError
from llamabuild.events import Note
from llamabuild.probe import Detection, Gpu

__all__ = ["Environment", "Fate", "Gpus", "Setting", "environment", "hip_environment"]

OVERRIDE = "HSA_OVERRIDE_GFX_VERSION"
_MASKS = ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
Probe: TypeAlias = Callable[[Mapping[str, str]], Detection]


@dataclass(frozen=True)
class Setting:
    """One variable: its value, or None where it has to go; and why."""

    name: str
    value: str | None
    reason: str


@dataclass(frozen=True)
class Fate:
    """What becomes of one GPU: it runs the module's code as it is, under another name, or not."""

    gpu: Gpu
    runs: Literal["native", "override", "no"]
    override: Override | None = None
    left_out: bool = False


@dataclass(frozen=True)
class Environment:
    """What to set before a program is started.

    :param backend: whose GPUs it is for.
    :param module: the file that was asked about; none where AMD's own targets were assumed.
    :param notes: what else the user should know.
    """

    backend: Literal["cuda", "hip"]
    module: Path | None
    settings: tuple[Setting, ...]
    fates: tuple[Fate, ...]
    notes: tuple[Note, ...]

    def applied(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return ``environ`` with the settings made."""
        gone = {setting.name for setting in self.settings}
        kept = {name: value for name, value in environ.items() if name not in gone}
        made = {each.name: each.value for each in self.settings if each.value is not None}
        return {**kept, **made}


@dataclass(frozen=True)
class Gpus:
    """The same GPUs as different layers of ROCm see them.

    :param machine: all of them; an override concerns hidden ones, too.
    :param runtime: those that ROCR_VISIBLE_DEVICES leaves; HIP_VISIBLE_DEVICES counts these.
    :param visible: those that a program would use.
    """

    machine: tuple[Gpu, ...]
    runtime: tuple[Gpu, ...]
    visible: tuple[Gpu, ...]


def environment(
    file: Path | None,
    backend: str | None,
    environ: Mapping[str, str],
    *,
    detect_amd: Probe | None = None,
    detect_nvidia: Probe | None = None,
    platform: str = sys.platform,
) -> Environment:
    """Find what has to be set for the GPUs that programs see and the code of one module.

    :param file: the module; without one, the targets are assumed that AMD's binaries are made for.
    :param backend: "hip" or "cuda"; by default the module's, or AMD's where such a GPU is.
    :raises ArchitectureError: no GPU is visible, or none of them could run the module.
    :raises UsageError: the module is for the other vendor's GPUs, or for none.
    """
    detect_amd = detect_amd or probe.detect_amd
    detect_nvidia = detect_nvidia or probe.detect_nvidia
    module = inspect.read_module(file) if file is not None else None
    if module is not None:
        if module.backend is None:
            raise UsageError(f"{file} holds no code for a GPU", hint=f"llamabuild inspect {file}")
        if backend not in {None, module.backend}:
            raise UsageError(
                f"{file} is for {module.backend}, and --backend {backend} was asked for",
                hint="leave --backend out",
            )
        backend = module.backend
    amd = detect_amd(environ) if backend != "cuda" else None
    if backend is None and amd is not None and amd.absent and detect_nvidia(environ).gpus:
        backend = "cuda"
    if backend == "cuda" or amd is None:
        return _cuda(module, _some_gpus(detect_nvidia(environ)), file)
    _some_gpus(amd)
    gpus = Gpus(
        machine=detect_amd(_without(environ, (*_MASKS, "ROCR_VISIBLE_DEVICES"))).gpus,
        runtime=detect_amd(_without(environ, _MASKS)).gpus,
        visible=amd.gpus,
    )
    compiled = [entry.arch for entry in module.entries] if module else arch.listed_targets()
    return hip_environment(gpus, compiled, environ, file=file, overrides=platform != "win32")


def hip_environment(
    gpus: Gpus,
    compiled: Iterable[str],
    environ: Mapping[str, str],
    *,
    file: Path | None = None,
    overrides: bool = True,
) -> Environment:
    """Decide for AMD's GPUs. Pure.

    An integrated GPU that would need an override is left out where a card runs the module: it
    shares the host's memory, slows a program down that spreads its work, and would make a second
    override of it.

    :param compiled: targets that the module holds code for.
    :param overrides: whether the runtime knows overrides; that of Windows does not.
    :raises ArchitectureError: none of the visible GPUs could run the module.
    """
    targets = tuple(dict.fromkeys(compiled))
    fates = [_fate(gpu, targets, overrides=overrides) for gpu in gpus.visible]
    if all(fate.runs == "no" for fate in fates):
        raise _nothing_runs(gpus.visible, targets, file)
    with_card = any(fate.runs != "no" and not fate.gpu.integrated for fate in fates)
    fates = [
        Fate(
            fate.gpu,
            fate.runs,
            fate.override,
            left_out=fate.runs == "no"
            or (with_card and fate.gpu.integrated and fate.runs == "override"),
        )
        for fate in fates
    ]
    kept = [fate for fate in fates if not fate.left_out]
    settings = [*_override_settings(gpus, kept, environ), *_mask_settings(gpus, fates)]
    return Environment("hip", file, tuple(settings), tuple(fates), tuple(_notes(fates, file)))


def _fate(gpu: Gpu, targets: Sequence[str], *, overrides: bool) -> Fate:
    if arch.runs_natively(gpu.arch, targets):
        return Fate(gpu, "native")
    found = arch.override_for(gpu.arch, targets) if overrides else None
    return Fate(gpu, "override", found) if found else Fate(gpu, "no")


def _nothing_runs(
    visible: Sequence[Gpu], targets: Sequence[str], file: Path | None
) -> ArchitectureError:
    cards = tuple(dict.fromkeys(gpu.arch for gpu in visible))
    what = f"{file} holds" if file else "AMD's own binaries hold"
    why = [reason for card in cards for reason in arch.known_wrong(card, targets)]
    return ArchitectureError(
        "\n".join(
            [f"{what} no code that {', '.join(cards)} could run: {', '.join(targets)}", *why]
        ),
        hint=f"build for it: llamabuild --backend hip --arch {','.join(cards)}",
    )


def _override_settings(
    gpus: Gpus, kept: Sequence[Fate], environ: Mapping[str, str]
) -> Iterator[Setting]:
    """One override for all GPUs where that is right for each; else one for each that needs it.

    The latter is known to ROCm 6.2 and later, which number nodes, processors included.
    """
    wanted = {fate.gpu: fate.override for fate in kept}
    needed = [(gpu, override) for gpu, override in wanted.items() if override]
    made = set()
    if needed and _one_for_all(gpus.machine, wanted):
        gpu, override = needed[0]
        made.add(OVERRIDE)
        yield Setting(OVERRIDE, override.version, _as(gpu, override))
    else:
        for gpu, override in needed:
            name = f"{OVERRIDE}_{_node(gpu)}"
            made.add(name)
            reason = f"{_as(gpu, override)} (ROCm 6.2 or later; the other GPUs keep their names)"
            yield Setting(name, override.version, reason)
    names = {name for name in environ if name == OVERRIDE or name.startswith(f"{OVERRIDE}_")}
    for name in sorted(names - made):
        yield Setting(name, None, "it is set, and a GPU that needs no other name would be renamed")


def _node(gpu: Gpu) -> int:
    if gpu.node is None:
        raise ArchitectureError(
            f"{gpu.name} needs an override of its own, and {gpu.found_via} does not number GPUs",
            hint="install rocminfo, or use Linux 5.15 or later",
        )
    return gpu.node


def _one_for_all(machine: Iterable[Gpu], wanted: Mapping[Gpu, Override | None]) -> bool:
    """Whether one override serves: it renames every GPU of the machine, hidden ones included.

    A GPU that is not used may be renamed to its kin. To anything else it may not: newer ROCm
    refuses that, and under an older one it may hang.
    """
    names = {
        override.runs_as if override else gpu.arch.partition(":")[0]
        for gpu, override in wanted.items()
    }
    if len(names) != 1:
        return False
    others = (gpu.arch for gpu in machine if gpu not in wanted)
    return all(
        arch.runs_natively(other, names) or arch.override_for(other, names) for other in others
    )


def _mask_settings(gpus: Gpus, fates: Sequence[Fate]) -> Iterator[Setting]:
    out = [fate for fate in fates if fate.left_out]
    if out:
        kept = [str(gpus.runtime.index(fate.gpu)) for fate in fates if not fate.left_out]
        reasons = [
            f"{fate.gpu.name} ({fate.gpu.arch}) is left out: "
            + (
                "there is no code for it"
                if fate.runs == "no"
                else "it is integrated, beside a card"
            )
            for fate in out
        ]
        yield Setting("HIP_VISIBLE_DEVICES", ",".join(kept), "; ".join(reasons))


def _notes(fates: Iterable[Fate], file: Path | None) -> Iterator[Note]:
    if file is None:
        listed = ", ".join(arch.listed_targets())
        yield Note("info", f"no module was named: assuming one for what AMD lists, {listed}")
    for fate in fates:
        if fate.override is not None and not fate.left_out:
            what = _as(fate.gpu, fate.override)
            if fate.override.warning:
                yield Note("warning", f"{what}: {fate.override.warning}")
            if fate.override.standing == "reported":
                yield Note("info", f"{what}: users report that it works, AMD does not vouch for it")


def _as(gpu: Gpu, override: Override) -> str:
    return f"{gpu.name} ({gpu.arch}) runs code for {override.runs_as}"


def _cuda(module: inspect.Module | None, detection: Detection, file: Path | None) -> Environment:
    """Decide for NVIDIA's GPUs, for which there is nothing to set: the driver picks the code."""
    fates, notes = [], []
    for gpu in detection.gpus:
        runs = inspect.coverage(module, gpu.arch).runs if module else "native"
        fates.append(Fate(gpu, "no" if runs == "no" else "native"))
        if runs == "no":
            notes.append(Note("warning", f"{file} holds no code that {gpu.name} could run"))
        elif runs == "jit":
            text = f"the driver compiles {file} for {gpu.name} at its first start, and keeps it"
            notes.append(Note("info", text))
    if all(fate.runs == "no" for fate in fates):
        cards = ",".join(dict.fromkeys(gpu.arch for gpu in detection.gpus))
        raise ArchitectureError(
            f"{file} holds no code for {cards}", hint=f"build for it: llamabuild --arch {cards}"
        )
    notes.append(Note("info", "NVIDIA's driver picks the code itself: there is nothing to set"))
    return Environment("cuda", file, (), tuple(fates), tuple(notes))


def _some_gpus(detection: Detection) -> Detection:
    if not detection.gpus:
        problem = detection.problems[0]
        builds = "--arch" in problem.hint  # for those who build: here it cannot be said
        raise ArchitectureError(
            problem.message,
            hint="llamabuild detect tells more of what is here" if builds else problem.hint,
        )
    return detection


def _without(environ: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if name not in names}
