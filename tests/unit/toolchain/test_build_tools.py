"""Finding CMake and Ninja."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from llamabuild.errors import ToolchainError
from llamabuild.toolchain import BuildTools, find_build_tools

from .conftest import Sandbox, says


@pytest.fixture(autouse=True)
def no_wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cmake", "ninja"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture
def bin_dir(sandbox: Sandbox) -> Path:
    folder = sandbox.root / "bin"
    sandbox.environ["PATH"] = str(folder)
    sandbox.program(folder / "cmake", says("cmake version 3.31.4", "", "by Kitware"))
    sandbox.program(folder / "ninja", says("1.11.1.git.kitware.jobserver-1"))
    return folder


def find(sandbox: Sandbox) -> BuildTools:
    return find_build_tools(sandbox.environ, memo=sandbox.memo, machine=sandbox.machine)


def test_they_are_found_on_path(sandbox: Sandbox, bin_dir: Path) -> None:
    tools = find(sandbox)
    assert (tools.cmake, tools.cmake_version) == (bin_dir / "cmake", "3.31.4")
    assert (tools.ninja, tools.ninja_version) == (bin_dir / "ninja", "1.11.1")


def test_the_wheels_own_binary_goes_first(
    sandbox: Sandbox, bin_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = sandbox.root / "site/cmake/data/bin"
    sandbox.program(wheel / "cmake", says("cmake version 4.1.0"))
    monkeypatch.setitem(sys.modules, "cmake", SimpleNamespace(CMAKE_BIN_DIR=str(wheel)))
    monkeypatch.setitem(sys.modules, "ninja", SimpleNamespace(BIN_DIR=str(wheel)))
    tools = find(sandbox)
    assert tools.cmake == wheel / "cmake"
    assert tools.ninja == bin_dir / "ninja", "a wheel whose binary is gone is passed over"


def test_a_module_of_that_name_that_is_no_wheel_is_passed_over(
    sandbox: Sandbox, bin_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cmake", SimpleNamespace())
    assert find(sandbox).cmake == bin_dir / "cmake"


def test_one_that_is_too_old_is_passed_over_for_a_newer_one_later_on_path(
    sandbox: Sandbox, bin_dir: Path
) -> None:
    old = sandbox.program(sandbox.root / "old/cmake", says("cmake version 3.9.9")).parent
    sandbox.environ["PATH"] = f"{old}:{bin_dir}"
    assert find(sandbox).cmake == bin_dir / "cmake"


@pytest.mark.parametrize("name", ["cmake", "ninja"])
@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["echo 1.9"], "is 1.9"),
        (["kill -SEGV $$"], "SIGSEGV"),
        (["echo nothing"], "prints no version"),
    ],
)
def test_none_that_works_is_an_error_that_says_what_to_install(
    sandbox: Sandbox, bin_dir: Path, name: str, lines: list[str], reason: str
) -> None:
    sandbox.program(bin_dir / name, *lines)
    with pytest.raises(ToolchainError) as caught:
        find(sandbox)
    assert caught.value.exit_code == 4
    assert reason in caught.value.message
    assert f"pip install '{name}>=" in caught.value.hint


def test_none_at_all_is_an_error_that_says_what_to_install(sandbox: Sandbox) -> None:
    with pytest.raises(ToolchainError, match="no cmake") as caught:
        find(sandbox)
    assert "pip install 'cmake>=" in caught.value.hint


def test_they_are_asked_once(sandbox: Sandbox, bin_dir: Path) -> None:
    assert find(sandbox) == find(sandbox)
    assert sandbox.started == ["cmake", "ninja"]
