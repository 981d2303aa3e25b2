"""From a report to a verdict."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llamabuild import probe
from llamabuild.errors import ArchitectureError
from llamabuild.probe import Detection, Gpu, Problem
from llamabuild.verify.judging import judged
from llamabuild.verify.model import Card, Verdict
from llamabuild.verify.trial import Trial

from .conftest import SOUND

MODULE = Path("ggml-cuda.so")
H200 = Gpu("nvidia", 0, "NVIDIA H200", "90", None, "580.159", "NVML", "")
Make = Callable[..., Trial]


@pytest.fixture(autouse=True)
def detection(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """This machine has an H200, unless a test says otherwise."""

    def set_gpus(*gpus: Gpu) -> None:
        problems = () if gpus else (Problem("there is no NVIDIA driver on this machine", "-"),)
        for name in ("detect_nvidia", "detect_amd", "detect_gpus"):
            monkeypatch.setattr(probe, name, lambda _: Detection(gpus, problems, None))

    set_gpus(H200)
    return set_gpus


def verdict_of(trial: Trial, device: int = 0) -> Verdict:
    return judged(MODULE, device, {}, trial)


def with_row(**changes: Any) -> tuple[dict[str, Any], ...]:
    return tuple({"row": {**line["row"], **changes}} if "row" in line else line for line in SOUND)


def test_a_sound_module_passes(trial: Make) -> None:
    verdict = verdict_of(trial(*SOUND))
    assert verdict.passed
    assert verdict.complete
    assert verdict.flavor == "bundled"
    assert verdict.card == Card(0, "GeForce GTX 1080", "61", "61")
    assert [row.error for row in verdict.rows] == [5e-3]
    assert verdict.shown == (
        "loads as a bundled module",
        "exports all 21 functions that are looked up",
        "finds 2 GPUs",
        "was compiled for 610",
    )


@pytest.mark.parametrize(
    ("lines", "options", "words", "hint"),
    [
        ([{"cannot_load": "undefined symbol: cuGetDevice"}], {}, "cuGetDevice", "inspect"),
        (
            [{"cannot_load": "libcublas.so.13: cannot open shared object file: No such file"}],
            {},
            "libcublas.so.13",
            "LD_LIBRARY_PATH",
        ),
        ([{"foreign": ["ggml_cuda_link"]}], {}, "is no GPU module", "llamafile"),
        ([{"missing": ["a", "b"]}], {}, "lacks a, b", "build it again"),
        ([{"devices": 0}], {}, "finds no GPU, where there is one", "doctor"),
        (
            [{"no_device": "CUDA driver version is insufficient for CUDA runtime version"}],
            {},
            "driver version is insufficient",
            "update the driver",
        ),
        (
            [*SOUND[:-1], {"failed": "no code for device 0 in this library"}],
            {},
            "failed at q4_0, 2 x 32 times 32 x 3: no code",
            "--arch native",
        ),
        (SOUND[:-1], {"returncode": -11}, "crashed (SIGSEGV) at q4_0", "--rebuild"),
        (SOUND[:-1], {"returncode": -11, "damaged": True}, "crashed (SIGSEGV)", "--rebuild"),
        (SOUND[:-1], {"returncode": None}, "did not answer within", "--time-limit"),
        (SOUND[:-1], {}, "ended the process with code 0 at q4_0", "--rebuild"),
        (SOUND, {"damaged": True}, "report that cannot be read", "--rebuild"),
        (
            [{"flavor": "classic"}, {"devices": 1}, {"failed": "the module called exit(1)"}],
            {"words": "CUDA kernel x has no device code compatible with CUDA arch 600."},
            "its last words:\n  CUDA kernel x has no device code compatible with CUDA arch 600.",
            "llamabuild inspect",
        ),
        (
            [{"flavor": "classic"}, {"failed": "the module called exit(1)"}],
            {"words": "the provided PTX was compiled with an unsupported toolchain."},
            "unsupported toolchain",
            "the driver is older than the PTX",
        ),
        (
            [{"flavor": "classic"}, {"failed": "the module called exit(1)"}],
            {},
            "failed: the module called exit(1)",
            "`llamabuild verify` without a file",
        ),
    ],
)
def test_what_went_wrong_is_said_with_what_to_do(
    trial: Make, lines: list[dict[str, Any]], options: dict[str, Any], words: str, hint: str
) -> None:
    verdict = verdict_of(trial(*lines, **options))
    assert not verdict.passed
    assert verdict.error is not None
    assert verdict.error.exit_code == 7
    assert verdict.error.message.startswith("ggml-cuda.so ")
    assert words in verdict.error.message
    assert hint in verdict.error.hint


def test_a_wrong_product_fails_and_the_first_is_named(trial: Make) -> None:
    verdict = verdict_of(trial(*with_row(right=False, error=0.25)))
    assert verdict.error is not None
    assert "1 of 1 products are wrong, of q4_0" in verdict.error.message
    assert "2 x 32 times 32 x 3 (dp4a), off by 2.5e-01" in verdict.error.message


def test_the_form_of_a_wrong_product_is_named(trial: Make) -> None:
    verdict = verdict_of(trial(*with_row(right=False, form="grouped")))
    assert [row.form for row in verdict.rows] == ["grouped"]
    assert verdict.error is not None
    assert "2 x 32 times 32 x 3, grouped (dp4a), off by" in verdict.error.message


def test_a_product_that_is_no_number_fails(trial: Make) -> None:
    verdict = verdict_of(trial(*with_row(right=False, error=None, same=None)))
    assert verdict.error is not None
    assert "not a number" in verdict.error.message


@pytest.mark.parametrize(
    "changes",
    [{"m": "2"}, {"error": "small"}, {"same": [1]}, {"right": "yes"}, {"path": []}, {"form": 1}],
    ids=lambda changes: next(iter(changes)),
)
def test_a_row_of_something_else_never_passes(trial: Make, changes: dict[str, Any]) -> None:
    assert not verdict_of(trial(*with_row(**changes))).passed


@pytest.mark.parametrize("row", [None, 3, [], {}, {"type": "q4_0"}])
def test_a_row_that_is_none_never_passes(trial: Make, row: Any) -> None:
    assert not verdict_of(trial(*SOUND[:-1], {"row": row}, SOUND[-1])).passed


def test_what_happens_after_the_last_product_is_not_judged(trial: Make) -> None:
    """Drivers are known to crash when a process ends."""
    assert verdict_of(trial(*SOUND, returncode=-11)).passed


@pytest.mark.parametrize(
    "line",
    [
        {"devices": 0},
        {"no_device": "the module found no device"},
        {"cannot_load": "libcuda.so.1: cannot open shared object file: No such file or directory"},
        {"cannot_load": "libamdhip64.so.5: cannot open shared object file"},
    ],
)
def test_without_a_gpu_the_machine_is_to_blame(
    trial: Make, detection: Callable[..., None], line: dict[str, Any]
) -> None:
    detection()
    with pytest.raises(ArchitectureError, match="there is no NVIDIA driver") as caught:
        verdict_of(trial({"ready": True}, line))
    assert caught.value.exit_code == 3
    assert "inspect" in caught.value.hint


def test_a_gpu_that_the_module_does_not_see(trial: Make) -> None:
    with pytest.raises(ArchitectureError, match="sees 2 GPUs, and so none of number 2"):
        verdict_of(trial(*SOUND), device=2)


def test_a_backend_away_from_its_ggml_is_not_tried(trial: Make) -> None:
    words = "libggml-base.so.0: cannot open shared object file: No such file or directory"
    verdict = verdict_of(trial({"cannot_load": words}))
    assert verdict.passed
    assert not verdict.complete
    assert verdict.flavor == "backend-dl"
    assert "libggml-base.so.0" in verdict.summary[0]


def test_the_driver_names_the_gpu_where_the_module_does_not(trial: Make) -> None:
    assert verdict_of(trial({"flavor": "classic"}, {"devices": 1}, {"end": True})).card == Card(
        0, "NVIDIA H200", "90"
    )
