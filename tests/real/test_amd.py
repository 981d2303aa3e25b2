"""AMD's tools and code on a machine that has no such GPU."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from llamabuild import pipeline, run
from llamabuild.probe import Detection, Gpu
from llamabuild.probe.amd_tools import rocminfo
from llamabuild.probe.interfaces import Machine

pytestmark = pytest.mark.hipcc

SOURCE = Path(__file__).parent / "data/inspect/traps.hip"
CARD = Gpu("amd", 0, "RX 6700 XT", "gfx1031", 12 * 2**30, "6.8", "KFD", "", node=1)


@pytest.fixture(scope="module")
def module(need: Callable[[object, str], None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A module for gfx906 and gfx1030, as hipcc makes it."""
    need(shutil.which("hipcc"), "hipcc")
    output = tmp_path_factory.mktemp("hip") / "ggml-rocm.so"
    targets = ["--offload-arch=gfx906", "--offload-arch=gfx1030"]
    result = run.capture(
        ["hipcc", "-fPIC", "-shared", *targets, SOURCE, "-o", output],
        env={**os.environ, "HIP_PLATFORM": "amd"},
        timeout=600,
    )
    assert result.returncode == 0, result.text
    return output


@pytest.mark.parametrize(
    ("target", "settings"),
    [
        ("gfx1030", {}),
        ("gfx906", {}),
        ("gfx1031", {"HSA_OVERRIDE_GFX_VERSION": "10.3.0"}),
    ],
)
def test_what_a_card_needs_for_what_hipcc_made(
    module: Path, target: str, settings: dict[str, str]
) -> None:
    card = replace(CARD, arch=target)
    found = pipeline.environment(
        module, None, {}, detect_amd=lambda _: Detection((card,), (), None), platform="linux"
    )
    assert {setting.name: setting.value for setting in found.settings} == settings


def test_rocminfo_is_read(need: Callable[[object, str], None]) -> None:
    need(shutil.which("rocminfo"), "rocminfo")
    found = rocminfo(Machine(os.environ, Path("/"), "linux"))
    assert bool(found) == Path("/dev/kfd").exists()
