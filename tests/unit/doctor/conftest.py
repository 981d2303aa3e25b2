"""A machine to be examined, in a folder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.unit.inspect.conftest import Forge
from tests.unit.toolchain.conftest import Sandbox, says

from llamabuild.doctor import Line, Report, Surroundings, examine
from llamabuild.probe import Gpu
from llamabuild.probe.interfaces import Answer, Machine
from llamabuild.toolchain import Machine as ToolMachine

__all__ = ["Patient", "gpu"]

GIB = 2**30


def gpu(arch: str = "61", name: str = "GTX 1080", driver: str = "535.261.03") -> Gpu:
    return Gpu("nvidia", 0, name, arch, 8 * GIB, driver, "NVML", "GPU-1")


class Patient:
    """A machine without anything, to which a test adds what it is about."""

    def __init__(self, folder: Path) -> None:
        self.sandbox = Sandbox(folder)
        self.root = self.sandbox.root
        self.home = folder / "home"
        self.home.mkdir()
        self.cwd = folder / "work"
        self.cwd.mkdir()
        self.environ = {**self.sandbox.environ, "HOME": str(self.home)}
        self.gpus: tuple[Gpu, ...] = ()
        self.driver_cuda: tuple[int, int] | None = None
        self.system, self.processor = "linux", "x86_64"
        self.write("proc/meminfo", f"MemAvailable: {32 * GIB // 1024} kB\n")

    def write(self, path: str, text: str = "") -> Path:
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        return place

    def healthy(self) -> None:
        """Install what a build needs."""
        self.sandbox.toolkit(self.root / "usr/local/cuda")
        self.sandbox.compiler(self.root / "usr/bin/g++", "12.2.0")
        for name, version in (("cmake", "3.31.2"), ("ninja", "1.12.1")):
            self.sandbox.program(self.root / "usr/bin" / name, says(f"{name} version {version}"))
        self.environ["PATH"] = str(self.root / "usr/bin")

    def _driver(self, _machine: Machine) -> Answer:
        return Answer(self.gpus, self.driver_cuda)

    def surroundings(self) -> Surroundings:
        return Surroundings(
            self.environ,
            self.cwd,
            ToolMachine(self.system, self.processor, self.root),  # type: ignore[arg-type]
            interfaces=(self._driver,) if self.gpus else (),
            python_path=(),
        )

    def examine(self, *, seconds: float = 60) -> Report:
        return examine(self.surroundings(), seconds=seconds)

    def lines(self, section: str = "", status: str = "") -> list[Line]:
        return [
            line
            for part in self.examine().sections
            for line in part.lines
            if section in {"", part.name} and status in {"", line.status}
        ]

    def line(self, words: str) -> Line:
        """The one line that holds ``words``."""
        found = [line for line in self.lines() if words in line.text]
        assert len(found) == 1, [line.text for line in self.lines()]
        return found[0]

    def says(self, words: str) -> bool:
        return any(words in line.text for line in self.lines())


@pytest.fixture
def patient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Patient:
    for wheel in ("cmake", "ninja"):  # those of the interpreter that runs the tests
        monkeypatch.setitem(sys.modules, wheel, None)
    return Patient(tmp_path)


@pytest.fixture
def forge(tmp_path: Path) -> Forge:
    return Forge(tmp_path)
