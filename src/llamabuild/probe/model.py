"""What the probes of any vendor hand over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Detection", "Gpu", "Problem"]


@dataclass(frozen=True)
class Gpu:
    """One GPU of this machine.

    :param index: its place in the listing of ``found_via``, counted over all GPUs, hidden or not.
    :param arch: "89" for compute capability 8.9; "gfx1100"; "" where the driver does not tell,
        which no GPU of a :class:`Detection` has.
    :param memory_bytes: its own memory; none where it shares the host's, or does not say.
    :param driver: version of the driver, such as "535.261.03"; "" if unknown.
    :param found_via: who told: "NVML", "libcuda", "nvidia-smi" or "device tree"; "KFD", "rocminfo"
        or "amdgpu-arch".
    :param uuid: "GPU-…", unique in the world; "" if unknown.
    :param integrated: a part of an AMD processor, whose memory it shares.
    :param node: AMD: the number by which ROCm's runtime knows it, processors counted as well; it is
        that of HSA_OVERRIDE_GFX_VERSION_1.
    """

    vendor: Literal["nvidia", "amd"]
    index: int
    name: str
    arch: str
    memory_bytes: int | None
    driver: str
    found_via: str
    uuid: str
    integrated: bool = False
    node: int | None = None


@dataclass(frozen=True)
class Problem:
    """Why a GPU cannot be used or named, and what to do about it."""

    message: str
    hint: str


@dataclass(frozen=True)
class Detection:
    """The GPUs that programs can see, in the order in which they see them.

    :param problems: what is wrong; at least one where there is no GPU.
    :param driver_cuda: the newest CUDA version that the driver can run, such as (12, 8).
    :param absent: there is no sign of this vendor's hardware: nothing that a user could mend.
    """

    gpus: tuple[Gpu, ...]
    problems: tuple[Problem, ...]
    driver_cuda: tuple[int, int] | None
    absent: bool = False
