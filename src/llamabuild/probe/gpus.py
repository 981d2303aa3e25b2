"""The GPUs of every vendor together."""

from __future__ import annotations

from collections.abc import Mapping

from llamabuild.probe.amd import detect_amd
from llamabuild.probe.model import Detection
from llamabuild.probe.nvidia import detect_nvidia

__all__ = ["detect_gpus"]


def detect_gpus(environ: Mapping[str, str]) -> Detection:
    """Detect all GPUs that programs started with ``environ`` would see, NVIDIA's first.

    What is wrong with a vendor's GPUs is told; that there are none is told only where there are
    none of any vendor.
    """
    parts = (detect_nvidia(environ), detect_amd(environ))
    absent = all(part.absent for part in parts)
    return Detection(
        gpus=tuple(gpu for part in parts for gpu in part.gpus),
        problems=tuple(
            problem for part in parts if absent or not part.absent for problem in part.problems
        ),
        driver_cuda=parts[0].driver_cuda,
        absent=absent,
    )
