"""``--arch native`` on machines where AMD's GPUs are, and where something is in the way."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from tests.unit.probe.kfd_tree import KfdTree

from llamabuild import pipeline, probe
from llamabuild.errors import ArchitectureError
from llamabuild.events import Event, Note
from llamabuild.pipeline.stages import look_at_gpus, read_architectures
from llamabuild.probe import Detection, Problem
from llamabuild.settings import resolve

Wanted = Callable[..., list[str]]

NO_NVIDIA = Detection((), (Problem("there is no NVIDIA GPU", "buy one"),), None, absent=True)


@pytest.fixture
def tree(tmp_path: Path) -> KfdTree:
    return KfdTree(tmp_path / "root").processor()


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def wanted(
    tree: KfdTree, told: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Wanted:
    """What would be compiled on the machine of ``tree``, which has no NVIDIA GPU."""
    find = partial(probe.detect_amd, root=tree.root, platform="linux")

    def notify(event: Event) -> None:
        if isinstance(event, Note):
            told.append(event.text)

    def wanted(environ: dict[str, str] | None = None, **given: str) -> list[str]:
        monkeypatch.setattr(probe, "detect_amd", find)
        monkeypatch.setattr(probe, "detect_nvidia", lambda _: NO_NVIDIA)
        environ = {"LLAMABUILD_CACHE_DIR": str(tmp_path / "cache"), **(environ or {})}
        request = resolve(given, environ, "build")
        job = pipeline.start(request, environ, tmp_path, notify)
        return [str(item) for item in look_at_gpus(read_architectures(job)).wanted]

    return wanted


def test_each_kind_of_gpu_once(tree: KfdTree, wanted: Wanted) -> None:
    tree.gpu(100300, minor=128).gpu(100306, minor=129).gpu(100300, minor=130)
    assert wanted(backend="hip") == ["gfx1030", "gfx1036"]


def test_without_an_nvidia_gpu_amds_is_meant(
    tree: KfdTree, wanted: Wanted, told: list[str]
) -> None:
    tree.gpu(110000)
    assert wanted() == ["gfx1100"]
    assert any("--backend hip" in text for text in told)


def test_what_is_masked_is_not_built_for(tree: KfdTree, wanted: Wanted) -> None:
    tree.gpu(100300, minor=128).gpu(100306, minor=129)
    assert wanted({"HIP_VISIBLE_DEVICES": "0"}, backend="hip") == ["gfx1030"]


def test_an_override_that_would_hide_the_module_is_warned_of(
    tree: KfdTree, wanted: Wanted, told: list[str]
) -> None:
    tree.gpu(100301)
    assert wanted({"HSA_OVERRIDE_GFX_VERSION": "10.3.0"}, backend="hip") == ["gfx1031"]
    assert any("HSA_OVERRIDE_GFX_VERSION=10.3.0" in text for text in told)


def refused(wanted: Wanted) -> ArchitectureError:
    with pytest.raises(ArchitectureError) as caught:
        wanted(backend="hip")
    return caught.value


def test_no_card(wanted: Wanted) -> None:
    error = refused(wanted)
    assert "there is no AMD GPU in this machine" in error.message
    assert "--arch" in error.hint


def test_no_permission(tree: KfdTree, wanted: Wanted, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.gpu(100301)
    monkeypatch.setattr("os.access", lambda path, mode: path.name != "kfd")
    error = refused(wanted)
    assert "this user may not open /dev/kfd" in error.message
    assert "usermod -aG render,video" in error.hint


def test_a_container_without_the_device(tree: KfdTree, wanted: Wanted) -> None:
    tree.gpu(100301)
    (tree.root / "dev/kfd").unlink()
    error = refused(wanted)
    assert "/dev/kfd is not here" in error.message
    assert "--device=/dev/kfd --device=/dev/dri" in error.hint
