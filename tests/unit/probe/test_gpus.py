"""The GPUs of both vendors together."""

from __future__ import annotations

import pytest

from llamabuild import probe
from llamabuild.probe import Detection, Gpu, Problem, gpus

NVIDIA = Gpu("nvidia", 0, "GTX 1080", "61", 8 * 2**30, "550.1", "NVML", "GPU-1")
AMD = Gpu("amd", 0, "RX 7900 XTX", "gfx1100", 24 * 2**30, "6.8", "KFD", "GPU-2", node=1)
NONE_THERE = Detection((), (Problem("there is none", ""),), None, absent=True)
BROKEN = Detection((), (Problem("it is broken", "mend it"),), None)


@pytest.mark.parametrize(
    ("nvidia", "amd", "names", "problems"),
    [
        (Detection((NVIDIA,), (), (12, 4)), NONE_THERE, ["GTX 1080"], []),
        (NONE_THERE, Detection((AMD,), (), None), ["RX 7900 XTX"], []),
        (
            Detection((NVIDIA,), (), (12, 4)),
            Detection((AMD,), (), None),
            ["GTX 1080", "RX 7900 XTX"],
            [],
        ),
        (Detection((NVIDIA,), (), (12, 4)), BROKEN, ["GTX 1080"], ["it is broken"]),
        (NONE_THERE, BROKEN, [], ["it is broken"]),
        (NONE_THERE, NONE_THERE, [], ["there is none"] * 2),
    ],
)
def test_what_is_told(
    monkeypatch: pytest.MonkeyPatch,
    nvidia: Detection,
    amd: Detection,
    names: list[str],
    problems: list[str],
) -> None:
    monkeypatch.setattr(gpus, "detect_nvidia", lambda _: nvidia)
    monkeypatch.setattr(gpus, "detect_amd", lambda _: amd)
    found = probe.detect_gpus({})
    assert [gpu.name for gpu in found.gpus] == names
    assert [problem.message for problem in found.problems] == problems
    assert found.driver_cuda == nvidia.driver_cuda
