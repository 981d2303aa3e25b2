"""Unit tests see an empty home and no toolchain, and start no real compiler."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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


@pytest.fixture
def permissions_hold() -> Iterator[None]:
    """Let a file's permissions hold for root, too, until the test is over."""
    if sys.platform == "linux" and os.geteuid() == 0:
        with _without_capabilities(CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
            yield
    else:
        yield


#: Numbers of Linux's capabilities, and the version of its interface (linux/capability.h).
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2
_CAPABILITIES_3 = 0x20080522


@contextmanager
def _without_capabilities(*numbers: int) -> Iterator[None]:
    """Take capabilities from this thread's effective ones; they stay permitted and come back."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES_3, 0)
    data = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable: low halves, then high
    assert libc.capget(header, data) == 0
    before = data[0]
    for number in numbers:
        data[0] &= ~(1 << number)
    assert libc.capset(header, data) == 0
    try:
        yield
    finally:
        data[0] = before
        assert libc.capset(header, data) == 0


def _program(
    args: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    env: Mapping[str, str] | None,
) -> Path | None:
    """Return the file that would be started, if there is one."""
    name = os.fspath(args if isinstance(args, str | os.PathLike) else args[0])
    path = os.environ.get("PATH") if env is None else env.get("PATH", os.defpath)
    found = shutil.which(name, path=path)
    return Path(found).absolute() if found else None
