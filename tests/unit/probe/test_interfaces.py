"""NVML, libcuda, nvidia-smi and the device tree, each faked where it is entered."""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamabuild import run
from llamabuild.probe import Gpu, interfaces
from llamabuild.probe.interfaces import (
    Absent,
    Broken,
    Machine,
    NotRunning,
    device_tree,
    kernel_driver,
    libcuda,
    nvidia_smi,
    nvml,
)
from llamabuild.probe.libcuda_child import describe

CHILD = Path(interfaces.__file__).with_name("libcuda_child.py")


def machine(root: Path, platform: str = "linux", **environ: str) -> Machine:
    return Machine({"PATH": str(root / "bin"), **environ}, root, platform)


def script(path: Path, body: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


# --- NVML --------------------------------------------------------------------------------------


class NVMLError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(f"NVML error {value}")
        self.value = value


class Nvml(ModuleType):
    """The binding, with two GPUs: a whole one, and one in partitions with secrets to keep."""

    NVMLError = NVMLError

    def __init__(self, fails_with: int = 0, lost: dict[int, int] | None = None) -> None:
        super().__init__("pynvml")
        self.fails_with = fails_with
        self.lost = lost or {}
        self.open = 0

    def nvmlInit(self) -> None:  # noqa: N802
        if self.fails_with:
            raise NVMLError(self.fails_with)
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlSystemGetDriverVersion(self) -> bytes:  # noqa: N802
        return b"535.261.03"  # old bindings gave bytes

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:  # noqa: N802
        return 12080

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        if index in self.lost:
            raise NVMLError(self.lost[index])
        return f"handle {index}"

    def nvmlDeviceGetCudaComputeCapability(self, handle: str) -> tuple[int, int]:  # noqa: N802
        if handle == "handle 1":
            raise NVMLError(3)
        return (12, 1)

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> SimpleNamespace:  # noqa: N802
        if handle == "handle 1":
            raise NVMLError(3)
        return SimpleNamespace(total=128 * 2**30)

    def nvmlDeviceGetName(self, handle: str) -> str:  # noqa: N802
        return f"GPU of {handle}"

    def nvmlDeviceGetUUID(self, handle: str) -> str:  # noqa: N802
        return f"MIG-{handle}" if "part" in handle else f"GPU-{handle}"

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: str) -> int:  # noqa: N802
        return 7 if handle == "handle 1" else 0

    def nvmlDeviceGetMigDeviceHandleByIndex(self, _: str, place: int) -> str:  # noqa: N802
        if place > 1:
            raise NVMLError(6)
        return f"part {place}"


@pytest.fixture
def pretend_nvml(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Nvml]:
    def pretend(**how: Any) -> Nvml:
        binding = Nvml(**how)
        monkeypatch.setitem(sys.modules, "pynvml", binding)
        return binding

    return pretend


def test_nvml_tells_everything(pretend_nvml: Callable[..., Nvml], tmp_path: Path) -> None:
    binding = pretend_nvml()
    answer = nvml(machine(tmp_path))
    driver = "535.261.03"
    assert answer.gpus == (
        Gpu("nvidia", 0, "GPU of handle 0", "121", 128 * 2**30, driver, "NVML", "GPU-handle 0"),
        Gpu("nvidia", 1, "GPU of handle 1", "", None, driver, "NVML", "GPU-handle 1"),
    )
    assert answer.driver_cuda == (12, 8)
    assert answer.partitions == (("MIG-part 0", 1), ("MIG-part 1", 1))
    assert not answer.in_cuda_order
    assert binding.open == 0


def test_a_lost_gpu_is_told_and_one_lent_to_others_is_not(
    pretend_nvml: Callable[..., Nvml], tmp_path: Path
) -> None:
    pretend_nvml(lost={0: 15, 1: 4})
    answer = nvml(machine(tmp_path))
    assert answer.gpus == ()
    assert answer.silent == ("NVIDIA GPU 0 does not answer: NVML error 15",)


@pytest.mark.parametrize(("error", "kind"), [(12, Absent), (9, NotRunning), (18, Broken)])
def test_nvml_fails_in_three_ways(
    pretend_nvml: Callable[..., Nvml], tmp_path: Path, error: int, kind: type[Exception]
) -> None:
    pretend_nvml(fails_with=error)
    with pytest.raises(kind):
        nvml(machine(tmp_path))


def test_a_version_mismatch_is_cured_by_a_restart(
    pretend_nvml: Callable[..., Nvml], tmp_path: Path
) -> None:
    pretend_nvml(fails_with=18)
    with pytest.raises(Broken, match="NVML error 18") as caught:
        nvml(machine(tmp_path))
    assert "restart" in caught.value.hint


def test_an_nvml_that_fails_later_is_closed(
    pretend_nvml: Callable[..., Nvml], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    binding = pretend_nvml()

    def count() -> int:
        raise NVMLError(999)

    monkeypatch.setattr(binding, "nvmlDeviceGetCount", count)
    with pytest.raises(Broken):
        nvml(machine(tmp_path))
    assert binding.open == 0


def test_without_the_binding_nvml_is_absent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(Absent):
        nvml(machine(tmp_path))


def test_the_library_of_wsl_is_loaded_first(
    pretend_nvml: Callable[..., Nvml], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "usr/lib/wsl/lib/libnvidia-ml.so.1"
    library.parent.mkdir(parents=True)
    library.touch()
    binding = pretend_nvml()
    loaded: list[tuple[str, int]] = []
    monkeypatch.setattr(ctypes, "CDLL", lambda name: loaded.append((name, binding.open)))
    nvml(machine(tmp_path))
    assert loaded == [(str(library), 0)]


def test_a_damaged_library_in_a_known_folder_does_no_harm(
    pretend_nvml: Callable[..., Nvml], tmp_path: Path
) -> None:
    library = tmp_path / "usr/lib/wsl/lib/libnvidia-ml.so.1"
    library.parent.mkdir(parents=True)
    library.write_bytes(b"no library")
    pretend_nvml()
    assert len(nvml(machine(tmp_path)).gpus) == 2


# --- libcuda: the child ------------------------------------------------------------------------


class Library:
    """libcuda with two GPUs."""

    def __init__(self, status: int = 0) -> None:
        self.status = status

    def cuInit(self, flags: int) -> int:  # noqa: N802
        assert flags == 0
        return self.status

    def cuGetErrorString(self, status: int, text: Any) -> int:  # noqa: N802
        text._obj.value = f"text of {status}".encode()
        return 0

    def cuDriverGetVersion(self, version: Any) -> int:  # noqa: N802
        version._obj.value = 13000
        return 0

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = 2
        return 0

    def cuDeviceGet(self, device: Any, index: int) -> int:  # noqa: N802
        device._obj.value = index + 40
        return 0

    def cuDeviceGetName(self, name: Any, size: int, device: Any) -> int:  # noqa: N802
        assert size == 256
        name.value = f"GPU {device.value}".encode()
        return 0

    def cuDeviceGetUuid(self, uuid: Any, device: Any) -> int:  # noqa: N802
        uuid.raw = bytes([device.value] * 16)
        return 0

    def cuDeviceTotalMem_v2(self, memory: Any, device: Any) -> int:  # noqa: N802
        memory._obj.value = device.value * 2**30
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> int:  # noqa: N802
        value._obj.value = {(75, 40): 6, (76, 40): 1, (75, 41): 12, (76, 41): 0}[
            attribute, device.value
        ]
        return 0


def test_the_child_lists_what_libcuda_sees() -> None:
    report = describe(["libcuda.so.1"], load=lambda _: Library())
    assert report == {
        "status": 0,
        "cuda": 13000,
        "devices": [
            {
                "name": "GPU 40",
                "arch": "61",
                "memory_bytes": 40 * 2**30,
                "uuid": "GPU-28282828-2828-2828-2828-282828282828",
            },
            {
                "name": "GPU 41",
                "arch": "120",
                "memory_bytes": 41 * 2**30,
                "uuid": "GPU-29292929-2929-2929-2929-292929292929",
            },
        ],
    }


def test_the_child_reports_an_error_with_its_text() -> None:
    report = describe(["libcuda.so.1"], load=lambda _: Library(803))
    assert report == {"status": 803, "text": "text of 803"}


def test_the_child_asks_the_first_library_that_loads() -> None:
    def load(name: str) -> Library:
        if name == "/wsl/libcuda.so.1":
            raise OSError(name)
        return Library(int(name))

    assert describe(["/wsl/libcuda.so.1", "34", "0"], load)["status"] == 34


def test_the_child_runs_alone_and_finds_nothing_where_nothing_is(tmp_path: Path) -> None:
    child = run.capture(
        [sys.executable, "-I", "-S", CHILD, tmp_path / "libcuda.so.1"], env={}, timeout=60
    )
    assert json.loads(child.stdout) == {"status": "absent"}


# --- libcuda: the parent -----------------------------------------------------------------------


@pytest.fixture
def pretend_child(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    def pretend(body: str) -> None:
        monkeypatch.setattr(sys, "executable", str(script(tmp_path / "python", body)))

    return pretend


def prints(report: dict[str, Any]) -> str:
    return f"echo '{json.dumps(report)}'"


def test_libcuda_lists_gpus_in_cudas_order(
    pretend_child: Callable[[str], None], tmp_path: Path
) -> None:
    device = {"name": "GTX", "arch": "61", "memory_bytes": 8, "uuid": "GPU-1"}
    pretend_child("echo noise; " + prints({"status": 0, "cuda": 12020, "devices": [device]}))
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  570.86.15  Release Build\n"
    )
    answer = libcuda(machine(tmp_path))
    assert answer.gpus == (Gpu("nvidia", 0, "GTX", "61", 8, "570.86.15", "libcuda", "GPU-1"),)
    assert answer.driver_cuda == (12, 2)
    assert answer.in_cuda_order


def test_the_child_is_not_told_what_is_hidden(
    pretend_child: Callable[[str], None], tmp_path: Path
) -> None:
    pretend_child(f"/usr/bin/env > {tmp_path / 'env'}; {prints({'status': 'absent'})}")
    where = machine(
        tmp_path,
        PATH=os.defpath,
        CUDA_VISIBLE_DEVICES="1",
        CUDA_DEVICE_ORDER="PCI_BUS_ID",
        LD_LIBRARY_PATH="/x",
    )
    with pytest.raises(Absent):
        libcuda(where)
    seen = (tmp_path / "env").read_text().splitlines()
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in seen
    assert "LD_LIBRARY_PATH=/x" in seen
    assert not any("CUDA_VISIBLE_DEVICES" in line for line in seen)


@pytest.mark.parametrize(
    ("platform", "names"),
    [("linux", "{root}/usr/lib/wsl/lib/libcuda.so.1 libcuda.so.1"), ("win32", "nvcuda.dll")],
)
def test_the_child_is_told_where_to_look(
    pretend_child: Callable[[str], None], tmp_path: Path, platform: str, names: str
) -> None:
    library = tmp_path / "usr/lib/wsl/lib/libcuda.so.1"
    library.parent.mkdir(parents=True)
    library.touch()
    pretend_child(f'shift 3; echo "$*" > {tmp_path}/asked; ' + prints({"status": "absent"}))
    with pytest.raises(Absent):
        libcuda(machine(tmp_path, platform))
    assert (tmp_path / "asked").read_text().strip() == names.format(root=tmp_path)


@pytest.mark.parametrize(
    ("status", "hint"),
    [(803, "restart"), (802, "nvidia-fabricmanager"), (34, "stubs"), (804, "compat"), (999, "")],
)
def test_an_error_of_libcuda_is_a_broken_driver(
    pretend_child: Callable[[str], None], tmp_path: Path, status: int, hint: str
) -> None:
    pretend_child(prints({"status": status, "text": "some text"}))
    with pytest.raises(Broken, match=rf"some text \(error {status}\)") as caught:
        libcuda(machine(tmp_path))
    assert hint in caught.value.hint


def test_no_device_is_no_failure(pretend_child: Callable[[str], None], tmp_path: Path) -> None:
    pretend_child(prints({"status": 100, "text": "no CUDA-capable device is detected"}))
    with pytest.raises(NotRunning):
        libcuda(machine(tmp_path))


@pytest.mark.parametrize("body", ["kill -SEGV $$", "echo nonsense", "exit 7"])
def test_a_library_that_crashes_takes_only_the_child_with_it(
    pretend_child: Callable[[str], None], tmp_path: Path, body: str
) -> None:
    pretend_child(body)
    with pytest.raises(Broken, match="exit code"):
        libcuda(machine(tmp_path))


def test_a_library_that_hangs_is_given_up(
    pretend_child: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interfaces, "PATIENCE", 0.2)
    pretend_child("exec /bin/sleep 600")
    with pytest.raises(Broken, match="does not answer"):
        libcuda(machine(tmp_path))


def test_without_an_interpreter_to_start_libcuda_is_not_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "gone"))
    with pytest.raises(Absent):
        libcuda(machine(tmp_path))


# --- nvidia-smi --------------------------------------------------------------------------------

BANNER = "| NVIDIA-SMI 535.261.03   Driver Version: 535.261.03   CUDA Version: 12.2     |"
MODERN = f"""case "$1" in
*compute_cap*) echo '0, NVIDIA GeForce RTX 4090, GPU-1, 24564, 535.261.03, 8.9'
               echo '1, NVIDIA GB10, GPU-2, [N/A], 535.261.03, 12.1' ;;
*) echo '{BANNER}' ;;
esac"""
OLD = """case "$1" in
*compute_cap*) echo 'Field "compute_cap" is not a valid field to query.'; exit 2 ;;
--query*) echo '0, GeForce GTX 1080, GPU-1, 8119, 390.157' ;;
*) echo 'NVIDIA-SMI 390.157' ;;
esac"""
TEGRA = f"""case "$1" in
*compute_cap*) echo '0, Orin (nvgpu), GPU-1, [N/A], 540.4.0, [N/A]' ;;
*) echo '{BANNER}' ;;
esac"""


def test_nvidia_smi_tells_everything(tmp_path: Path) -> None:
    script(tmp_path / "bin/nvidia-smi", MODERN)
    answer = nvidia_smi(machine(tmp_path))
    name, driver, via = "NVIDIA GeForce RTX 4090", "535.261.03", "nvidia-smi"
    assert answer.gpus == (
        Gpu("nvidia", 0, name, "89", 24564 * 2**20, driver, via, "GPU-1"),
        Gpu("nvidia", 1, "NVIDIA GB10", "121", None, driver, via, "GPU-2"),
    )
    assert answer.driver_cuda == (12, 2)


def test_an_old_nvidia_smi_does_not_know_capabilities(tmp_path: Path) -> None:
    script(tmp_path / "bin/nvidia-smi", OLD)
    answer = nvidia_smi(machine(tmp_path))
    assert [(gpu.name, gpu.arch, gpu.driver) for gpu in answer.gpus] == [
        ("GeForce GTX 1080", "", "390.157")
    ]
    assert answer.driver_cuda is None


def test_nvidia_smi_of_a_jetson_does_not_say(tmp_path: Path) -> None:
    script(tmp_path / "bin/nvidia-smi", TEGRA)
    (gpu,) = nvidia_smi(machine(tmp_path)).gpus
    assert (gpu.name, gpu.arch, gpu.memory_bytes) == ("Orin (nvgpu)", "", None)


@pytest.mark.parametrize("code", [0, 6])
def test_nvidia_smi_without_devices(tmp_path: Path, code: int) -> None:
    script(tmp_path / "bin/nvidia-smi", f"echo 'No devices were found'; exit {code}")
    assert nvidia_smi(machine(tmp_path)).gpus == ()


def test_nvidia_smi_without_a_running_driver(tmp_path: Path) -> None:
    body = (
        "echo \"NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. "
        'Make sure that the latest NVIDIA driver is installed and running."; exit 9'
    )
    script(tmp_path / "bin/nvidia-smi", body)
    with pytest.raises(NotRunning):
        nvidia_smi(machine(tmp_path))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            "echo 'Failed to initialize NVML: Driver/library version mismatch'; echo x; exit 18",
            "says: Failed to initialize NVML: Driver/library version mismatch$",
        ),
        ("echo 'GPU access blocked by the operating system' >&2; exit 17", "access blocked"),
        ("exit 3", "exit code 3"),
        ("exec /bin/sleep 600", "does not answer"),
    ],
)
def test_nvidia_smi_that_fails_is_a_broken_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, reason: str
) -> None:
    monkeypatch.setattr(interfaces, "PATIENCE", 0.5)
    script(tmp_path / "bin/nvidia-smi", body)
    with pytest.raises(Broken, match=reason):
        nvidia_smi(machine(tmp_path))


def test_without_nvidia_smi(tmp_path: Path) -> None:
    with pytest.raises(Absent):
        nvidia_smi(machine(tmp_path))


def test_an_nvidia_smi_that_cannot_be_started(tmp_path: Path) -> None:
    script(tmp_path / "bin/nvidia-smi", MODERN).chmod(0o644)
    with pytest.raises(Absent):
        nvidia_smi(machine(tmp_path))


@pytest.mark.parametrize(
    ("platform", "place"),
    [
        ("linux", "usr/lib/wsl/lib/nvidia-smi"),
        ("win32", "Windows/System32/nvidia-smi.exe"),
        ("win32", "Programs/NVIDIA Corporation/NVSMI/nvidia-smi.exe"),
    ],
)
def test_nvidia_smi_is_found_off_the_path(tmp_path: Path, platform: str, place: str) -> None:
    script(tmp_path / place, MODERN)
    where = machine(
        tmp_path,
        platform,
        SystemRoot=str(tmp_path / "Windows"),
        ProgramFiles=str(tmp_path / "Programs"),
    )
    assert len(nvidia_smi(where).gpus) == 2


@given(st.text(st.characters(exclude_characters="\0\r\n", codec="utf-8")))
def test_a_listing_of_any_text_is_no_crash(
    tmp_path_factory: pytest.TempPathFactory, line: str
) -> None:
    def pretend(_: Path, __: Machine, query: str = "") -> str:
        return f"0, {line}\n{line}\n" if query else line

    root = tmp_path_factory.getbasetemp()
    script(root / "bin/nvidia-smi", "exit 0")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interfaces, "_run_nvidia_smi", pretend)
        for gpu in nvidia_smi(machine(root)).gpus:
            assert gpu.arch == "" or gpu.arch.isdecimal()


# --- the device tree and the kernel -------------------------------------------------------------


@pytest.mark.parametrize(
    ("compatible", "arch"),
    [
        (b"nvidia,p3737-0000+p3701-0005\0nvidia,p3701-0005\0nvidia,tegra234\0", "87"),
        (b"nvidia,p2972-0000\0nvidia,tegra194\0", "72"),
        (b"nvidia,p2771-0000\0nvidia,tegra186\0", "62"),
        (b"nvidia,jetson-nano\0nvidia,tegra210\0", "53"),
        (b"nvidia,p3971-0089+p3834-0008\0nvidia,tegra264\0", "110"),
    ],
)
def test_a_jetson_is_known_by_its_device_tree(tmp_path: Path, compatible: bytes, arch: str) -> None:
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/device-tree/compatible").write_bytes(compatible)
    (gpu,) = device_tree(machine(tmp_path)).gpus
    assert (gpu.arch, gpu.found_via, gpu.memory_bytes) == (arch, "device tree", None)


@pytest.mark.parametrize("compatible", [b"raspberrypi,4-model-b\0brcm,bcm2711\0", b"", b"\xff\0"])
def test_another_board_is_none(tmp_path: Path, compatible: bytes) -> None:
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/device-tree/compatible").write_bytes(compatible)
    with pytest.raises(Absent):
        device_tree(machine(tmp_path))


def test_a_machine_without_a_device_tree(tmp_path: Path) -> None:
    with pytest.raises(Absent):
        device_tree(machine(tmp_path))


def test_the_version_in_the_kernel(tmp_path: Path) -> None:
    assert kernel_driver(tmp_path) == ""
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    version = tmp_path / "proc/driver/nvidia/version"
    version.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.261.03  Thu Jun\n")
    assert kernel_driver(tmp_path) == "535.261.03"
    version.write_text("nonsense")
    assert kernel_driver(tmp_path) == ""
