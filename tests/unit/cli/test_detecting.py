"""``llamabuild detect``."""

from __future__ import annotations

import json

import pytest

from llamabuild import cli
from llamabuild.probe import Detection, Gpu, Problem

FOUND = Detection(
    gpus=(
        Gpu("nvidia", 0, "GTX 1080", "61", 8 * 2**30, "550.1", "NVML", "GPU-1"),
        Gpu("amd", 0, "RX 7900 XTX", "gfx1100", 24 * 2**30, "6.8.0", "KFD", "GPU-2", node=1),
        Gpu("amd", 1, "Radeon Graphics", "gfx1036", None, "", "KFD", "", integrated=True, node=2),
    ),
    problems=(Problem("HSA_OVERRIDE_GFX_VERSION is set", "unset it"),),
    driver_cuda=(12, 4),
)


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llamabuild.probe.detect_gpus", lambda _: FOUND)


def test_the_gpus_of_both_vendors(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["detect"]) == 0
    out, err = capsys.readouterr()
    assert out == (
        "0: GTX 1080, 61, 8 GiB, driver 550.1\n"
        "0: RX 7900 XTX, gfx1100, 24 GiB, driver 6.8.0\n"
        "1: Radeon Graphics, gfx1036, integrated\n"
    )
    assert err == "HSA_OVERRIDE_GFX_VERSION is set\n  try: unset it\n"


def test_the_document_has_the_fields_that_it_had(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["detect", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["gpus"][1] == {
        "vendor": "amd",
        "index": 0,
        "name": "RX 7900 XTX",
        "arch": "gfx1100",
        "memory_bytes": 24 * 2**30,
        "driver": "6.8.0",
        "found_via": "KFD",
    }
    assert document["gpus"][2]["memory_bytes"] is None
    assert document["problems"] == [
        {"message": "HSA_OVERRIDE_GFX_VERSION is set", "hint": "unset it"}
    ]
    assert document["schema"] == 1
