"""Unit tests see an empty home and no toolchain, and start no real compiler."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

#: Variables by which a machine's toolchains, GPUs and habits would reach a test.
SETTINGS = re.compile(
    r"(CUDA|NVCC|NVIDIA|HIP|HSA|ROC|CMAKE|CONDA|XDG|PIP|UV)_?.*"
    r"|(TORCH|PYTORCH)_\w+_(ARCH|ARCH_LIST)|(CC|CXX|LD|CPP)(FLAGS)?|MAX_JOBS"
    r"|NO_COLOR|FORCE_COLOR|CI|GITHUB_ACTIONS"
)
#: Compilers, what they start, what drives them, and what asks the hardware.
REAL_TOOLS = re.compile(
    r"(\w+-linux-gnu-)?(nvcc|hipcc|gcc|g\+\+|clang(\+\+)?|cc|c\+\+|cl|ld|cmake|ninja|make|cicc"
    r"|cudafe\+\+|ptxas|fatbinary|nvlink|cuobjdump|nvdisasm|nvidia-smi|rocminfo"
    r"|amdgpu-arch)(-[\d.]+)?(\.exe)?"
)


@pytest.fixture(autouse=True)
def empty_home(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Give the test a home with nothing in it, and no settings of this machine."""
    for name in list(os.environ):
        if SETTINGS.fullmatch(name):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture(autouse=True)
def no_real_compiler(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Fail a test that starts a real tool; a fake one in a test's own folder is welcome."""
    ours = tmp_path_factory.getbasetemp().resolve()

    class Guarded(subprocess.Popen[Any]):
        def __init__(self, args: Any, *more: Any, **options: Any) -> None:
            program = _program(args, options.get("env"))
            if program and REAL_TOOLS.fullmatch(program.name) and ours not in program.parents:
                pytest.fail(f"a unit test starts {program}: use a fake one, or move to tests/real")
            super().__init__(args, *more, **options)

    monkeypatch.setattr(subprocess, "Popen", Guarded)


def _program(
    args: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    env: Mapping[str, str] | None,
) -> Path | None:
    """Return the file that would be started, if there is one."""
    name = os.fspath(args if isinstance(args, str | os.PathLike) else args[0])
    path = os.environ.get("PATH") if env is None else env.get("PATH", os.defpath)
    found = shutil.which(name, path=path)
    return Path(found).absolute() if found else None
