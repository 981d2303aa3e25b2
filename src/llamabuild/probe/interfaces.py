"""The ways to ask an NVIDIA driver, or the machine itself, which GPUs there are.

Each takes a :class:`Machine` and returns an :class:`Answer` about all GPUs, hidden or not, or
raises :class:`Absent`, :class:`NotRunning` or :class:`Broken`. None starts a compiler.
"""

from __future__ import annotations

import csv
import ctypes
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from llamabuild import run
from llamabuild.looking import is_file
from llamabuild.probe.model import Gpu

__all__ = [
    "Absent",
    "Answer",
    "Broken",
    "Machine",
    "NotRunning",
    "device_tree",
    "kernel_driver",
    "libcuda",
    "nvidia_smi",
    "nvml",
]

#: Seconds. A driver that wakes eight sleeping GPUs takes several; a broken one takes for ever.
PATIENCE = 30.0

#: NVML_ERROR_NO_PERMISSION, _DRIVER_NOT_LOADED and _LIBRARY_NOT_FOUND, from nvml.h.
NVML_NO_PERMISSION, NVML_NOT_LOADED, NVML_NOT_FOUND = 4, 9, 12
#: CUDA_ERROR_NO_DEVICE, from cuda.h: also what libcuda says when no kernel module is loaded.
CUDA_NO_DEVICE = 100


class Absent(Exception):
    """The library, program or file that would be asked is not installed."""


class NotRunning(Exception):
    """It is installed, but the driver in the kernel does not run or has no GPU."""


class Broken(Exception):
    """It is installed and fails. The text says how; ``hint`` what to do, if that is known."""

    def __init__(self, reason: str, *, code: str = "") -> None:
        super().__init__(reason)
        self.hint: str = facts()["hints"].get(code, "")


@dataclass(frozen=True)
class Machine:
    """Where to look: all that a probe depends on, so that a test can fake it.

    :param root: the root of the file system.
    :param platform: as :data:`sys.platform` has it.
    """

    environ: Mapping[str, str]
    root: Path
    platform: str


@dataclass(frozen=True)
class Answer:
    """All GPUs that an interface lists.

    :param in_cuda_order: numbered as CUDA_VISIBLE_DEVICES counts them, not by their bus.
    :param partitions: UUID of each MIG partition and the index of the GPU it is a part of.
    :param silent: one sentence for each GPU that is listed but does not answer.
    """

    gpus: tuple[Gpu, ...]
    driver_cuda: tuple[int, int] | None = None
    in_cuda_order: bool = False
    partitions: tuple[tuple[str, int], ...] = ()
    silent: tuple[str, ...] = ()


@cache
def facts() -> dict[str, Any]:
    """The tables of ``nvidia.toml``."""
    import tomllib

    return tomllib.loads(Path(__file__).with_name("nvidia.toml").read_text("utf-8"))


def kernel_driver(root: Path) -> str:
    """Version of the driver that runs in the kernel, "535.261.03"; "" if none does."""
    with suppress(OSError):
        text = (root / "proc/driver/nvidia/version").read_text("utf-8", "replace")
        if match := re.search(r"Kernel Module.*?\s([0-9]+(?:\.[0-9]+)+)\s", text):
            return match[1]
    return ""


def nvml(machine: Machine) -> Answer:
    """Ask NVIDIA's management library, through its own Python binding."""
    try:
        import pynvml  # type: ignore[import-untyped]
    except ImportError as error:
        raise Absent from error
    for library in _installed(machine, "libnvidia-ml.so.1"):
        with suppress(OSError):  # once loaded, the binding finds it by its name
            ctypes.CDLL(str(library))
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        if error.value == NVML_NOT_FOUND:
            raise Absent from error
        if error.value == NVML_NOT_LOADED:
            raise NotRunning from error
        raise Broken(f"NVML says: {error}", code=f"NVML {error.value}") from error
    try:
        return _ask_nvml(pynvml)
    except pynvml.NVMLError as error:
        raise Broken(f"NVML says: {error}", code=f"NVML {error.value}") from error
    finally:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _ask_nvml(pynvml: Any) -> Answer:
    def ask(question: Callable[..., Any], *about: Any) -> Any:
        try:
            return question(*about)
        except pynvml.NVMLError:  # not on this GPU, or not by this driver
            return None

    gpus, partitions, silent = [], [], []
    driver = _text(ask(pynvml.nvmlSystemGetDriverVersion))
    cuda = ask(pynvml.nvmlSystemGetCudaDriverVersion_v2)
    for index in range(pynvml.nvmlDeviceGetCount()):
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        except pynvml.NVMLError as error:
            if error.value != NVML_NO_PERMISSION:  # a GPU that was lent to somebody else
                silent.append(f"NVIDIA GPU {index} does not answer: {error}")
            continue
        major, minor = ask(pynvml.nvmlDeviceGetCudaComputeCapability, handle) or (None, None)
        memory = ask(pynvml.nvmlDeviceGetMemoryInfo, handle)
        gpus.append(
            Gpu(
                vendor="nvidia",
                index=index,
                name=_text(ask(pynvml.nvmlDeviceGetName, handle)),
                arch="" if major is None else f"{major}{minor}",
                memory_bytes=None if memory is None else int(memory.total),
                driver=driver,
                found_via="NVML",
                uuid=_text(ask(pynvml.nvmlDeviceGetUUID, handle)),
            )
        )
        for place in range(ask(pynvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
            part = ask(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, place)
            if part is not None:
                partitions.append((_text(ask(pynvml.nvmlDeviceGetUUID, part)), index))
    return Answer(
        tuple(gpus), _cuda_version(cuda), partitions=tuple(partitions), silent=tuple(silent)
    )


def libcuda(machine: Machine) -> Answer:
    """Ask CUDA's driver library, in a child process: it may crash, and it reads the environment.

    The child does not get CUDA_VISIBLE_DEVICES, so it lists every GPU, in the order in which that
    variable counts them.
    """
    if machine.platform == "win32":
        names = ["nvcuda.dll"]
    else:
        names = [*map(str, _installed(machine, "libcuda.so.1")), "libcuda.so.1"]
    script = Path(__file__).with_name("libcuda_child.py")
    env = run.environment(machine.environ, unset=["CUDA_VISIBLE_DEVICES"])
    try:
        child = run.capture([sys.executable, "-I", "-S", script, *names], env=env, timeout=PATIENCE)
    except run.CannotStart as error:
        raise Absent from error
    except run.TimedOut as error:
        raise Broken("libcuda does not answer") from error
    try:
        report = json.loads(child.stdout.strip().rpartition("\n")[2])  # the library may print too
    except ValueError:
        raise Broken(f"libcuda made the process fail (exit code {child.returncode})") from None
    if report["status"] == "absent":
        raise Absent
    if report["status"] == CUDA_NO_DEVICE:
        raise NotRunning
    if report["status"] != 0:
        raise Broken(
            f"libcuda says: {report['text']} (error {report['status']})",
            code=f"libcuda {report['status']}",
        )
    driver = kernel_driver(machine.root)
    gpus = tuple(
        Gpu("nvidia", index, driver=driver, found_via="libcuda", **device)
        for index, device in enumerate(report["devices"])
    )
    return Answer(gpus, _cuda_version(report["cuda"]), in_cuda_order=True)


def nvidia_smi(machine: Machine) -> Answer:
    """Ask the driver's command-line tool."""
    tool = _find_nvidia_smi(machine)
    fields = "index,name,uuid,memory.total,driver_version"
    listing = _run_nvidia_smi(tool, machine, f"--query-gpu={fields},compute_cap")
    if "not a valid field" in listing:  # before driver 510
        listing = _run_nvidia_smi(tool, machine, f"--query-gpu={fields}")
    header = re.search(r"CUDA Version *: *([0-9]+)\.([0-9]+)", _run_nvidia_smi(tool, machine))
    rows = csv.reader(listing.splitlines(), skipinitialspace=True)
    gpus = tuple(
        _from_row(row) for row in rows if len(row) > fields.count(",") and row[0].isdecimal()
    )
    return Answer(gpus, (int(header[1]), int(header[2])) if header else None)


def _from_row(row: Sequence[str]) -> Gpu:
    index, name, uuid, mebibytes, driver, *capability = row
    digits = re.fullmatch(r"([0-9]+)\.([0-9])", "".join(capability))
    return Gpu(
        vendor="nvidia",
        index=int(index),
        name=name,
        arch=digits[1] + digits[2] if digits else "",
        memory_bytes=int(mebibytes) * 2**20 if mebibytes.isdecimal() else None,
        driver=driver,
        found_via="nvidia-smi",
        uuid=uuid,
    )


def _find_nvidia_smi(machine: Machine) -> Path:
    program = "nvidia-smi.exe" if machine.platform == "win32" else "nvidia-smi"
    places = [*machine.environ.get("PATH", "").split(os.pathsep)]
    if machine.platform == "win32":
        places.append(machine.environ.get("SystemRoot", "C:/Windows") + "/System32")
        programs = machine.environ.get("ProgramFiles", "C:/Program Files")
        places.append(programs + "/NVIDIA Corporation/NVSMI")  # before driver 460
    tools = [Path(place) / program for place in places if place]
    tools += _installed(machine, program)
    for tool in tools:
        if is_file(tool):
            return tool
    raise Absent


def _run_nvidia_smi(tool: Path, machine: Machine, query: str = "") -> str:
    arguments = [query, "--format=csv,noheader,nounits"] if query else []
    try:
        result = run.capture([tool, *arguments], env=machine.environ, timeout=PATIENCE)
    except run.CannotStart as error:
        raise Absent from error
    except run.TimedOut as error:
        raise Broken("nvidia-smi does not answer") from error
    words = result.text.strip()
    if "No devices were found" in words:
        return ""
    if "couldn't communicate with the NVIDIA driver" in words:
        raise NotRunning
    if result.returncode != 0 and "not a valid field" not in words:
        first = words.splitlines()[0] if words else f"exit code {result.returncode}"
        raise Broken(f"nvidia-smi says: {first}")
    return result.stdout if result.returncode == 0 else words


def device_tree(machine: Machine) -> Answer:
    """Ask the device tree, which names the chip of a Jetson even where no driver can be seen."""
    try:
        tree = (machine.root / "proc/device-tree/compatible").read_bytes()
    except OSError as error:
        raise Absent from error
    for name in tree.decode("ascii", "replace").split("\0"):
        chip = facts()["tegra"].get(name.removeprefix("nvidia,"))
        if chip is not None:
            driver = kernel_driver(machine.root)
            gpu = Gpu("nvidia", 0, chip["name"], chip["arch"], None, driver, "device tree", "")
            return Answer((gpu,))
    raise Absent


def _installed(machine: Machine, file: str) -> list[Path]:
    """``file`` in the folders that are on no search path."""
    candidates = (machine.root / folder / file for folder in facts()["folders"])
    return [path for path in candidates if is_file(path)]


def _text(value: str | bytes | None) -> str:
    """NVML's binding returned bytes before version 12, and may return nothing here."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value or ""


def _cuda_version(number: int | None) -> tuple[int, int] | None:
    """12080, as the driver counts, is CUDA 12.8."""
    return (number // 1000, number % 1000 // 10) if number else None
