"""GPUs and their driver, and the driver against the toolkits."""

from __future__ import annotations

from collections.abc import Iterator

from llamabuild import toolchain
from llamabuild.arch import CudaArch, HipTarget
from llamabuild.doctor.model import Line
from llamabuild.doctor.surroundings import Surroundings
from llamabuild.errors import ToolchainError
from llamabuild.inspect import drivers
from llamabuild.probe.pci import has_card
from llamabuild.toolchain import RocmNeeds, Toolkit

__all__ = ["compiled_for", "compiled_for_amd", "driver", "found"]

#: Makers' numbers on the PCI bus.
_NVIDIA, _AMD = "0x10de", "0x1002"


def found(here: Surroundings) -> Iterator[Line]:
    """Every GPU; where there is none, the reason."""
    for gpu in here.gpus:
        memory = f", {gpu.memory_bytes / 2**30:.0f} GiB" if gpu.memory_bytes else ""
        capability = CudaArch(int(gpu.arch)).capability if gpu.vendor == "nvidia" else gpu.arch
        yield Line(
            "ok",
            f"GPU {gpu.index}: {gpu.name}, {capability}{memory}, driver "
            f"{gpu.driver or 'unknown'} (by {gpu.found_via})",
        )
    # Where there is a GPU of one make, that there is none of another is no news.
    for detection, expected in (
        (here.nvidia, _expects_nvidia(here)),
        (here.amd, _expects_amd(here)),
    ):
        for problem in detection.problems if expected else ():
            yield Line("trouble", problem.message, problem.hint)
    if not here.gpus and not _expects_nvidia(here) and not _expects_amd(here):
        yield Line(
            "note",
            "there is no GPU here, and no driver of one",
            "name what to build for, for example --arch 89 or --arch 'rtx 4090'",
        )


def _expects_nvidia(here: Surroundings) -> bool:
    """Whether there is a trace of such a GPU, so that one that cannot be used is worth mending."""
    traces = ("proc/driver/nvidia/version", "dev/nvidiactl", "usr/lib/wsl/lib/libcuda.so.1")
    return bool(here.nvidia.gpus) or has_card(here.root, _NVIDIA) or any(map(here.has, traces))


def _expects_amd(here: Surroundings) -> bool:
    traces = ("sys/class/kfd", "dev/kfd")
    return bool(here.amd.gpus) or has_card(here.root, _AMD) or any(map(here.has, traces))


def driver(here: Surroundings) -> Iterator[Line]:
    """Whether the driver runs what each toolkit makes."""
    supported = here.nvidia.driver_cuda
    if supported is None:
        return
    version = next((gpu.driver for gpu in here.nvidia.gpus if gpu.driver), "")
    name = f"driver {version}" if version else "the driver"
    yield Line("ok", f"{name} runs code of CUDA up to {supported[0]}.{supported[1]}")
    made = {toolkit.root: _release(toolkit) for toolkit in here.toolkits.toolkits}
    fitting = [toolkit for toolkit in here.toolkits.toolkits if made[toolkit.root] <= supported]
    for toolkit in here.toolkits.toolkits:
        release = made[toolkit.root]
        if release <= supported:
            continue
        needed = drivers.minimum(release, jit=True)
        cure = f"update the driver to {needed} or newer" if needed else "update the driver"
        if fitting:
            cure += f", or build with --toolkit {fitting[0].version}"
        if release[0] > supported[0]:
            yield Line("trouble", f"{name} runs nothing that {toolkit.label} makes", cure)
        else:
            yield Line(
                "note",
                f"{name} runs machine code of {toolkit.label}, but not its PTX ('the provided PTX "
                "was compiled with an unsupported toolchain')",
                f"build for the GPU itself (--arch native), or {cure}",
            )


def compiled_for(here: Surroundings) -> Iterator[Line]:
    """Whether some toolkit compiles for each GPU that is there."""
    archs = sorted({int(gpu.arch) for gpu in here.nvidia.gpus})
    search = here.toolkits
    if not search.toolkits:
        return  # the toolkits' own section says what to install
    for number in archs:
        arch = CudaArch(number)
        try:
            choice = toolchain.choose(search, [arch], cublas=False)
        except ToolchainError as error:
            yield Line("trouble", error.message, error.hint)
        else:
            yield Line("ok", f"for {arch.capability}: {choice.toolkit.label}")


def compiled_for_amd(here: Surroundings) -> Iterator[Line]:
    """Whether some ROCm compiles for each AMD GPU that is there."""
    for name in sorted({gpu.arch.partition(":")[0] for gpu in here.amd.gpus}):
        try:
            choice = toolchain.choose_rocm(here.rocms, [HipTarget(name)], RocmNeeds())
        except ToolchainError as error:
            yield Line("trouble", error.message, error.hint)
        else:
            yield Line("ok", f"for {name}: {choice.toolkit.label}")


def _release(toolkit: Toolkit) -> tuple[int, int]:
    major, minor = toolkit.version.split(".")[:2]
    return int(major), int(minor)
