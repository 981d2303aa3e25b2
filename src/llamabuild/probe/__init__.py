"""The GPUs, drivers and host limits that are really there."""

from __future__ import annotations

from llamabuild.probe.amd import detect_amd
from llamabuild.probe.gpus import detect_gpus
from llamabuild.probe.host import HostLimits, host_limits
from llamabuild.probe.model import Detection, Gpu, Problem
from llamabuild.probe.nvidia import detect_nvidia

__all__ = [
    "Detection",
    "Gpu",
    "HostLimits",
    "Problem",
    "detect_amd",
    "detect_gpus",
    "detect_nvidia",
    "host_limits",
]
