"""AMD's GPUs as the kernel lists them, what the masks leave, and why there may be none."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.probe.kfd_tree import GIB, KfdTree, plug

from llamabuild import arch, probe
from llamabuild.probe import Detection, Problem
from llamabuild.probe.amd_tools import rocminfo
from llamabuild.probe.amd_topology import read_topology
from llamabuild.probe.interfaces import Machine


def detect(
    root: Path, environ: Mapping[str, str] | None = None, *, forbidden: tuple[str, ...] = ()
) -> Detection:
    return probe.detect_amd(
        environ or {},
        root=root,
        platform="linux",
        may_open=lambda path: f"/{path.relative_to(root)}" not in forbidden,
    )


def targets(detection: Detection) -> list[str]:
    return [gpu.arch for gpu in detection.gpus]


def only_problem(detection: Detection) -> Problem:
    assert detection.gpus == ()
    (problem,) = detection.problems
    return problem


@pytest.fixture
def tree(tmp_path: Path) -> KfdTree:
    return KfdTree(tmp_path)


# --- what the kernel lists ------------------------------------------------------------------------


def test_a_card_is_described_without_rocm(tree: KfdTree) -> None:
    tree.processor().gpu(110000, memory=24 * GIB, unique_id=0x0080_1234_0000_00AB)
    tree.product(128, name="Radeon PRO W7900")
    (gpu,) = detect(tree.root).gpus
    assert (gpu.vendor, gpu.index, gpu.arch, gpu.node) == ("amd", 0, "gfx1100", 1)
    assert (gpu.name, gpu.memory_bytes) == ("Radeon PRO W7900", 24 * GIB)
    assert (gpu.driver, gpu.found_via) == ("6.8.0-45-generic", "KFD")
    assert gpu.uuid == "GPU-00801234000000ab"
    assert not gpu.integrated


def test_a_driver_with_a_version_of_its_own_says_it(tree: KfdTree) -> None:
    tree.processor().gpu(110000).write("sys/module/amdgpu/version", "6.10.5\n")
    assert detect(tree.root).gpus[0].driver == "6.10.5"


@pytest.mark.parametrize(
    "ids", ["usr/share/libdrm/amdgpu.ids", "opt/amdgpu/share/libdrm/amdgpu.ids"]
)
def test_libdrm_knows_the_name_by_device_and_revision(tree: KfdTree, ids: str) -> None:
    tree.processor().gpu(110000, device_id=0x744C).product(128, revision="0xcc")
    tree.write(
        ids,
        "# List of AMDGPU IDs\n1.0.0\n"
        "744C,\tC8,\tAMD Radeon RX 7900 XTX\n744C,\tCC,\tAMD Radeon RX 7900 XT\nbroken,line\n",
    )
    assert detect(tree.root).gpus[0].name == "AMD Radeon RX 7900 XT"


@pytest.mark.parametrize(("name", "shown"), [("navi21", "AMD navi21"), ("", "AMD gfx1030")])
def test_a_card_nobody_names_goes_by_its_chip(tree: KfdTree, name: str, shown: str) -> None:
    tree.processor().gpu(100300, name=name)
    assert detect(tree.root).gpus[0].name == shown


def test_apu_and_card_are_told_apart(tree: KfdTree) -> None:
    tree.processor().gpu(100300, minor=128).gpu(100306, minor=129, memory=GIB // 2)
    card, apu = detect(tree.root).gpus
    assert (card.arch, card.integrated, card.node) == ("gfx1030", False, 1)
    assert (apu.arch, apu.integrated, apu.node) == ("gfx1036", True, 2)
    assert card.memory_bytes == 16 * GIB
    assert apu.memory_bytes is None  # half a gigabyte is set aside, and all of the host's is used


def test_an_old_kernel_lists_processor_and_gpu_as_one(tree: KfdTree) -> None:
    tree.gpu(80001, cpu_cores_count=8).gpu(90006, minor=129)
    apu, card = detect(tree.root).gpus
    assert (apu.arch, apu.integrated, apu.node) == ("gfx801", True, 0)
    assert (card.arch, card.integrated, card.node) == ("gfx906", False, 1)


def test_two_different_cards(tree: KfdTree) -> None:
    tree.processor().processor().gpu(110001, minor=128).gpu(100302, minor=129)
    assert [(gpu.index, gpu.arch, gpu.node) for gpu in detect(tree.root).gpus] == [
        (0, "gfx1101", 2),
        (1, "gfx1032", 3),
    ]


def test_partitions_of_an_mi300_are_gpus_each(tree: KfdTree) -> None:
    tree.processor().processor()
    for minor in range(128, 136):
        tree.gpu(90402, minor=minor, memory=24 * GIB, num_xcc=1, unique_id=7)
    found = detect(tree.root)
    assert targets(found) == ["gfx942"] * 8
    assert [gpu.node for gpu in found.gpus] == list(range(2, 10))
    assert found.problems == ()


def test_nodes_are_in_numeric_order(tree: KfdTree) -> None:
    tree.processor()
    for minor in range(128, 139):
        tree.gpu(90402 if minor < 138 else 110000, minor=minor)
    assert targets(detect(tree.root)) == ["gfx942"] * 10 + ["gfx1100"]


def test_another_containers_gpu_is_not_counted(tree: KfdTree) -> None:
    tree.processor().unreadable().gpu(100300)
    (gpu,) = detect(tree.root).gpus
    assert (gpu.index, gpu.node) == (0, 1)


def test_a_gpu_whose_render_device_was_not_passed_in_is_not_counted(tree: KfdTree) -> None:
    tree.processor().gpu(90402, minor=128).gpu(100300, minor=129)
    (tree.root / "dev/dri/renderD128").unlink()
    found = detect(tree.root)
    assert [(gpu.arch, gpu.index, gpu.node) for gpu in found.gpus] == [("gfx1030", 0, 1)]
    assert found.problems == ()


@given(st.binary(max_size=400))
def test_any_file_of_properties_is_survived(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    tree = KfdTree(tmp_path_factory.mktemp("fuzz")).processor().gpu(100300)
    (tree.nodes / "1/properties").write_bytes(content)
    assert read_topology(tree.root) is not None


# --- which of them programs see -------------------------------------------------------------------

UUIDS = (0x1111_0000_0000_0001, 0x1122_0000_0000_0002, 0x2222_0000_0000_0003)


@pytest.fixture
def three(tree: KfdTree) -> KfdTree:
    """Cards of three kinds: gfx906, gfx1030, gfx1100."""
    tree.processor()
    for minor, (version, uuid) in enumerate(zip((90006, 100300, 110000), UUIDS, strict=True), 128):
        tree.gpu(version, minor=minor, unique_id=uuid)
    return tree


@pytest.mark.parametrize(
    ("mask", "seen"),
    [
        ("0", [0]),
        ("2,0", [2, 0]),
        (" 1 , 2 ", [1, 2]),
        ("0,3,1", [0]),
        ("0,-1,1", [0]),
        ("1,1,2", [1]),  # one that is there twice ends the list
        ("GPU-1111000000000001", [0]),
        ("gpu-2222,0", [2, 0]),
        ("GPU-11", []),  # fits two
        ("GPU-ffff,0", []),
        ("", []),
        ("x", []),
    ],
)
def test_rocr_visible_devices(three: KfdTree, mask: str, seen: list[int]) -> None:
    found = detect(three.root, {"ROCR_VISIBLE_DEVICES": mask})
    assert [gpu.index for gpu in found.gpus] == seen
    if not seen:
        problem = only_problem(found)
        assert "ROCR_VISIBLE_DEVICES" in problem.message
        assert "all 3 AMD GPUs" in problem.message
        assert "unset ROCR_VISIBLE_DEVICES" in problem.hint


@pytest.mark.parametrize(
    ("mask", "seen"),
    [
        ("0", [0]),
        ("2,0", [2, 0]),
        ("1,1,2", [1, 2]),
        ("0,3,1", [0]),
        ("0, 1", [0]),  # HIP takes no space
        ("-1", []),
        ("GPU-2222000000000003", [2]),
        ("", [0, 1, 2]),
    ],
)
@pytest.mark.parametrize("name", ["HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"])
def test_hip_visible_devices(three: KfdTree, name: str, mask: str, seen: list[int]) -> None:
    found = detect(three.root, {name: mask})
    assert [gpu.index for gpu in found.gpus] == seen
    if not seen:
        assert name in only_problem(found).message


def test_hips_own_variable_goes_first(three: KfdTree) -> None:
    masks = {"HIP_VISIBLE_DEVICES": "1", "CUDA_VISIBLE_DEVICES": "2"}
    assert targets(detect(three.root, masks)) == ["gfx1030"]
    assert targets(detect(three.root, {**masks, "HIP_VISIBLE_DEVICES": ""})) == ["gfx1100"]


def test_hip_counts_what_the_runtime_has_left(three: KfdTree) -> None:
    masks = {"ROCR_VISIBLE_DEVICES": "2,1", "HIP_VISIBLE_DEVICES": "0"}
    assert targets(detect(three.root, masks)) == ["gfx1100"]
    problem = only_problem(detect(three.root, {**masks, "HIP_VISIBLE_DEVICES": "2"}))
    assert "all 2 AMD GPUs" in problem.message


# --- an override changes what programs see, not what is there ------------------------------------


def test_an_override_is_told_and_the_target_stays(tree: KfdTree) -> None:
    tree.processor().gpu(100301)
    found = detect(tree.root, {"HSA_OVERRIDE_GFX_VERSION": "10.3.0"})
    assert targets(found) == ["gfx1031"]
    (problem,) = found.problems
    assert "10.3.0" in problem.message
    assert "gfx1031" in problem.message
    assert "unset HSA_OVERRIDE_GFX_VERSION" in problem.hint


def test_an_override_for_one_node_concerns_that_gpu(tree: KfdTree) -> None:
    tree.processor().gpu(110000, minor=128).gpu(100302, minor=129)
    (problem,) = detect(tree.root, {"HSA_OVERRIDE_GFX_VERSION_2": "10.3.0"}).problems
    assert "gfx1032" in problem.message


@pytest.mark.parametrize("place", ["dev/kfd", "sys/class/kfd/kfd/topology/nodes"])
def test_what_may_not_be_looked_at_is_not_there(
    tree: KfdTree, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.processor().gpu(100300)
    exists = Path.exists

    def guarded(path: Path) -> bool:
        if path == tree.root / place:
            raise PermissionError(13, "Permission denied", str(path))
        return exists(path)

    monkeypatch.setattr(Path, "exists", guarded)
    assert detect(tree.root).gpus == ()


def test_an_empty_override_is_not_none(tree: KfdTree) -> None:
    tree.processor().gpu(100300)
    (problem,) = detect(tree.root, {"HSA_OVERRIDE_GFX_VERSION": ""}).problems
    assert "is set and empty" in problem.message


def test_an_override_to_its_own_target_changes_nothing(tree: KfdTree) -> None:
    tree.processor().gpu(90012)
    assert detect(tree.root, {"HSA_OVERRIDE_GFX_VERSION": "9.0.12"}).problems == ()


# --- why there is none ---------------------------------------------------------------------------


def test_no_permission(tree: KfdTree) -> None:
    tree.processor().gpu(100301)
    problem = only_problem(detect(tree.root, forbidden=("/dev/kfd", "/dev/dri/renderD128")))
    assert "this user may not open /dev/dri/renderD128 and /dev/kfd" in problem.message
    assert "usermod -aG render,video" in problem.hint
    assert "--arch gfx1031" in problem.hint


def test_permissions_are_asked_of_the_system(
    tree: KfdTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.processor().gpu(100301)
    monkeypatch.setattr("os.access", lambda path, mode: path.name != "kfd")
    found = probe.detect_amd({}, root=tree.root, platform="linux")
    assert "may not open /dev/kfd" in only_problem(found).message


def test_a_container_without_its_devices(tree: KfdTree) -> None:
    tree.processor().gpu(110000, minor=128).gpu(100302, minor=129)
    (tree.root / "dev/kfd").unlink()
    problem = only_problem(detect(tree.root))
    assert "/dev/kfd is not here" in problem.message
    assert "--device=/dev/kfd --device=/dev/dri" in problem.hint
    assert "--arch gfx1100,gfx1032" in problem.hint


def test_a_container_without_render_devices(tree: KfdTree) -> None:
    tree.processor().gpu(110000)
    (tree.root / "dev/dri/renderD128").unlink()
    assert "/dev/dri/renderD128 is not here" in only_problem(detect(tree.root)).message


def test_a_container_that_may_not_even_read(tree: KfdTree) -> None:
    tree.processor().unreadable()
    problem = only_problem(detect(tree.root))
    assert "may not use it" in problem.message
    assert "--device=/dev/kfd --device=/dev/dri" in problem.hint


@pytest.mark.parametrize("kind", ["0x030000", "0x038000", "0x120000"])
def test_a_card_without_a_driver(tmp_path: Path, kind: str) -> None:
    plug(tmp_path, kind=kind)
    found = detect(tmp_path)
    assert "driver is not loaded" in only_problem(found).message
    assert "modprobe amdgpu" in found.problems[0].hint
    assert not found.absent


def test_a_driver_without_its_compute_part(tmp_path: Path) -> None:
    plug(tmp_path)
    (tmp_path / "sys/module/amdgpu").mkdir(parents=True)
    assert "CONFIG_HSA_AMD" in only_problem(detect(tmp_path)).hint


def test_a_card_that_the_driver_does_not_compute_on(tree: KfdTree) -> None:
    plug(tree.root)
    tree.processor()
    assert "does not offer it for computing" in only_problem(detect(tree.root)).message


def test_no_card_at_all(tmp_path: Path) -> None:
    found = detect(tmp_path)
    assert "there is no AMD GPU" in only_problem(found).message
    assert "--arch gfx1100" in found.problems[0].hint
    assert found.absent


def test_someone_elses_card_is_no_sign_of_amd(tmp_path: Path) -> None:
    plug(tmp_path, vendor="0x10de")
    assert detect(tmp_path).absent


def test_wsl_without_rocm(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/dxg").touch()
    found = detect(tmp_path)
    assert "WSL" in only_problem(found).message
    assert found.absent  # or it would be told beside an NVIDIA GPU
    assert "HSA_ENABLE_DXG_DETECTION=1 rocminfo" in found.problems[0].hint


def test_windows_without_the_sdk(tmp_path: Path) -> None:
    found = probe.detect_amd({}, root=tmp_path, platform="win32")
    assert "HIP SDK" in only_problem(found).hint


# --- ROCm's tools ---------------------------------------------------------------------------------

REPORT = """\
ROCk module version 6.10.5 is loaded
=====================
HSA System Attributes
=====================
Runtime Version:         1.14

==========
HSA Agents
==========
*******
Agent 1
*******
  Name:                    AMD Ryzen 7 7700 8-Core Processor
  Uuid:                    CPU-XX
  Marketing Name:          AMD Ryzen 7 7700 8-Core Processor
  Node:                    0
  Device Type:             CPU
  Pool Info:
    Pool 1
      Segment:                 GLOBAL; FLAGS: FINE GRAINED
      Size:                    65536000(0x3e80000) KB
*******
Agent 2
*******
  Name:                    gfx90a
  Uuid:                    GPU-3f2a000000000001
  Marketing Name:          AMD Instinct MI210
  Node:                    1
  Device Type:             GPU
  Pool Info:
    Pool 1
      Segment:                 GLOBAL; FLAGS: COARSE GRAINED
      Size:                    67092480(0x3ffc000) KB
  ISA Info:
    ISA 1
      Name:                    amdgcn-amd-amdhsa--gfx90a:sramecc+:xnack-
*******
Agent 3
*******
  Name:                    gfx1036
  Uuid:                    GPU-XX
  Marketing Name:          AMD Radeon Graphics
  Node:                    2
  Device Type:             GPU
  Pool Info:
    Pool 1
      Segment:                 GLOBAL; FLAGS: COARSE GRAINED
      Size:                    524288(0x80000) KB
*** Done ***
"""


def tool(folder: Path, name: str, output: str, *, status: int = 0, script: str = "") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\nprintf %s {shlex.quote(output)}\nexit {status}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def old_kernel(tree: KfdTree) -> KfdTree:
    """Before Linux 5.15: the kernel lists a GPU and does not tell which."""
    return tree.processor().gpu(0, name="aldebaran")


def test_rocminfo_tells_what_an_old_kernel_does_not(old_kernel: KfdTree, tmp_path: Path) -> None:
    tool(tmp_path / "bin", "rocminfo", REPORT)
    found = detect(old_kernel.root, {"PATH": str(tmp_path / "bin")})
    card, apu = found.gpus
    assert (card.arch, card.name, card.node) == ("gfx90a", "AMD Instinct MI210", 1)
    assert (card.uuid, card.memory_bytes) == ("GPU-3f2a000000000001", 67092480 * 1024)
    assert (apu.arch, apu.uuid, apu.memory_bytes) == ("gfx1036", "", None)
    assert apu.integrated
    assert {gpu.found_via for gpu in found.gpus} == {"rocminfo"}


@pytest.mark.parametrize("place", ["opt/rocm/bin/rocminfo", "opt/rocm-5.4.2/bin/rocminfo"])
def test_rocminfo_is_found_where_rocm_is_installed(old_kernel: KfdTree, place: str) -> None:
    path = old_kernel.root / place
    tool(path.parent, path.name, REPORT)
    found = detect(old_kernel.root, {"PATH": ""})
    assert targets(found) == ["gfx90a", "gfx1036"]


def test_amdgpu_arch_is_asked_where_rocminfo_fails(old_kernel: KfdTree, tmp_path: Path) -> None:
    tool(tmp_path / "rocm/bin", "rocminfo", "hsa_init Failed\n", status=1)
    tool(tmp_path / "rocm/llvm/bin", "amdgpu-arch", "gfx90a:sramecc+:xnack-\ngfx1036\n")
    environ = {"PATH": "", "ROCM_PATH": str(tmp_path / "rocm")}
    found = detect(old_kernel.root, environ)
    assert targets(found) == ["gfx90a", "gfx1036"]
    assert [gpu.found_via for gpu in found.gpus] == ["amdgpu-arch"] * 2


def test_the_tools_are_asked_about_everything_and_unmasked(
    old_kernel: KfdTree, tmp_path: Path
) -> None:
    hostile = (
        'test -z "$ROCR_VISIBLE_DEVICES$HIP_VISIBLE_DEVICES$HSA_OVERRIDE_GFX_VERSION" || exit 1'
    )
    tool(tmp_path / "bin", "rocminfo", REPORT, script=hostile)
    environ = {
        "PATH": str(tmp_path / "bin"),
        "ROCR_VISIBLE_DEVICES": "1,0",
        "HIP_VISIBLE_DEVICES": "0",
        "HSA_OVERRIDE_GFX_VERSION": "10.3.0",
    }
    assert targets(detect(old_kernel.root, environ)) == ["gfx1036"]


def test_nobody_who_knows_an_old_kernels_gpu(old_kernel: KfdTree) -> None:
    problem = only_problem(detect(old_kernel.root, {"PATH": ""}))
    assert "aldebaran" in problem.message
    assert "--arch gfx1030" in problem.hint


def test_rocminfo_is_told_of_windows_gpus(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/dxg").touch()
    script = 'test "$HSA_ENABLE_DXG_DETECTION" = 1 || exit 1'
    tool(tmp_path / "bin", "rocminfo", REPORT, script=script)
    assert "gfx90a" in targets(detect(tmp_path, {"PATH": str(tmp_path / "bin")}))


def test_no_tool_is_started_where_the_kernel_tells(
    tree: KfdTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a tool was started")

    monkeypatch.setattr(subprocess, "Popen", fail)
    tree.processor().gpu(100300)
    tool(tree.root / "opt/rocm/bin", "rocminfo", REPORT)
    assert targets(detect(tree.root)) == ["gfx1030"]


def test_no_tool_is_started_where_there_is_no_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a tool was started")

    monkeypatch.setattr(subprocess, "Popen", fail)
    tool(tmp_path / "opt/rocm/bin", "rocminfo", REPORT)
    assert detect(tmp_path).gpus == ()


@given(st.text(max_size=300))
def test_any_report_is_survived(text: str) -> None:
    report = REPORT.replace("Agent 3\n", f"Agent 3\n{text}")
    machine = Machine({}, Path("/nonexistent"), "linux")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llamabuild.probe.amd_tools._output", lambda *_: report)
        assert all(arch.gfx_version(gpu.arch) for gpu in rocminfo(machine))
