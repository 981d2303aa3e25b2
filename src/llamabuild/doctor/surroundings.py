"""What the checks look at: everything that they depend on, so that a test can fake a machine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from llamabuild import probe, run, toolchain
from llamabuild.memo import Memo
from llamabuild.probe import Detection, Gpu
from llamabuild.probe.interfaces import Answer, Broken, device_tree, libcuda, nvidia_smi, nvml
from llamabuild.probe.interfaces import Machine as ProbedMachine
from llamabuild.toolchain import Machine, RocmSearch, ToolkitSearch

__all__ = ["INTERFACES", "Surroundings", "in_time"]

Interface = Callable[[ProbedMachine], Answer]

#: Seconds for one question to a driver that is asked inside this process.
DRIVER_SECONDS = 4.0
#: Seconds for all programs that tell about GPUs, and for all compilers that tell about themselves.
GPU_SECONDS, TOOLKIT_SECONDS = 5.0, 6.0


def in_time(interface: Interface, seconds: float = DRIVER_SECONDS) -> Interface:
    """Ask a driver's library without waiting for one that hangs in the kernel for ever."""

    def ask(machine: ProbedMachine) -> Answer:
        outcome: list[Answer | Exception] = []

        def work() -> None:
            try:
                outcome.append(interface(machine))
            except Exception as error:  # noqa: BLE001 -- raised again, where it is waited for
                outcome.append(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(seconds)
        if not outcome:
            raise Broken("it does not answer")
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        return outcome[0]

    return ask


INTERFACES: tuple[Interface, ...] = (in_time(nvml), libcuda, nvidia_smi, device_tree)


@dataclass(frozen=True)
class Surroundings:
    """A machine as seen by a user.

    :param cache_dir: ``--cache-dir``.
    :param interfaces: whom to ask about GPUs.
    :param python_path: where wheels may be; :data:`sys.path` by default.
    """

    environ: Mapping[str, str]
    cwd: Path
    machine: Machine
    cache_dir: str | None = None
    interfaces: Sequence[Interface] = INTERFACES
    python_path: Sequence[str | Path] | None = None

    @property
    def root(self) -> Path:
        """The root of the file system."""
        return self.machine.root

    @cached_property
    def nvidia(self) -> Detection:
        """The NVIDIA GPUs, and what is wrong with them."""
        with run.within(GPU_SECONDS):
            return probe.detect_nvidia(
                self.environ,
                root=self.root,
                platform=self._platform,
                interfaces=self.interfaces,
            )

    @cached_property
    def amd(self) -> Detection:
        """The AMD GPUs, and what is wrong with them."""
        if self.machine.system == "macos":
            return Detection((), (), None, absent=True)
        with run.within(GPU_SECONDS):
            return probe.detect_amd(self.environ, root=self.root, platform=self._platform)

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """Every GPU that programs can see."""
        return (*self.nvidia.gpus, *self.amd.gpus)

    @property
    def _platform(self) -> str:
        return {"windows": "win32", "macos": "darwin"}.get(self.machine.system, "linux")

    @cached_property
    def toolkits(self) -> ToolkitSearch:
        """Every CUDA toolkit, asked anew: nothing is remembered, nothing is written."""
        if self.machine.system == "macos":
            return ToolkitSearch(())
        with run.within(TOOLKIT_SECONDS):
            return toolchain.find_cuda(
                self.environ, memo=Memo(None), machine=self.machine, python_path=self.python_path
            )

    @cached_property
    def rocms(self) -> RocmSearch:
        """Every ROCm, asked anew likewise."""
        if self.machine.system != "linux":
            return RocmSearch(())
        with run.within(TOOLKIT_SECONDS):
            return toolchain.find_rocm(
                self.environ, memo=Memo(None), machine=self.machine, python_path=self.python_path
            )

    def text(self, path: str) -> str:
        """The text of a small file below the root; empty where it cannot be read."""
        try:
            with (self.root / path).open("rb") as file:
                return file.read(1 << 16).decode("utf-8", "replace")
        except OSError:
            return ""

    def has(self, path: str) -> bool:
        """Whether there is something below the root; what may not be looked at is not there."""
        try:
            return (self.root / path).exists()
        except OSError:
            return False
