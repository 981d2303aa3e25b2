"""Folders that the user may not search, in PATH and elsewhere, as ``su`` leaves them behind."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from llamabuild import cli, toolchain
from llamabuild.looking import is_file, is_folder
from llamabuild.memo import Memo
from llamabuild.toolchain.model import Machine

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="permissions are those of Linux")


@pytest.fixture
def shut(tmp_path: Path, permissions_hold: None) -> Path:
    folder = tmp_path / "shut"
    (folder / "bin").mkdir(parents=True)
    (folder / "file").touch()
    folder.chmod(0)
    return folder


def test_what_cannot_be_seen_is_not_there(shut: Path) -> None:
    assert not is_file(shut / "file")
    assert not is_folder(shut / "bin")
    shut.chmod(0o700)
    assert is_file(shut / "file")
    assert is_folder(shut / "bin")


@pytest.mark.parametrize("command", ["detect", "status"])
def test_no_command_stumbles_over_it(
    monkeypatch: pytest.MonkeyPatch, shut: Path, command: str
) -> None:
    monkeypatch.setenv("PATH", str(shut / "bin"))
    monkeypatch.chdir(shut.parent)
    assert cli.main([command]) == 0


def test_no_toolkit_is_there(shut: Path) -> None:
    environ = {"PATH": str(shut / "bin"), "CUDA_HOME": str(shut), "ROCM_PATH": str(shut)}
    memo = Memo(shut.parent / "memo")
    machine = Machine("linux", "x86_64", root=shut.parent / "root")
    cuda = toolchain.find_cuda(environ, memo=memo, machine=machine, python_path=[shut])
    rocm = toolchain.find_rocm(environ, memo=memo, machine=machine, python_path=[shut])
    assert not cuda.toolkits
    assert not rocm.toolkits
