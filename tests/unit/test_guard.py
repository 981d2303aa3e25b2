"""The guard of the unit tests guards."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from llamabuild import run

TOOLS = ["nvcc", "g++", "gcc-11", "x86_64-linux-gnu-g++-12", "clang++-15", "cc", "cmake", "ninja"]


def fake(folder: Path, name: str) -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!{sys.executable}\nprint('fake')\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A folder outside those of the tests."""
    with tempfile.TemporaryDirectory(prefix="llamabuild-test-") as folder:
        yield Path(folder)


@pytest.mark.parametrize("tool", TOOLS)
def test_a_real_tool_is_not_started(elsewhere: Path, tool: str) -> None:
    path = fake(elsewhere / "bin", tool)
    for name, env in ((tool, {"PATH": str(path.parent)}), (str(path), {})):
        with pytest.raises(pytest.fail.Exception, match=re.escape(f"a unit test starts {path}")):
            run.capture([name], env=env, timeout=30)
        with pytest.raises(pytest.fail.Exception, match="a unit test starts"):
            subprocess.run([name], env=env, check=False)


@pytest.mark.parametrize("tool", TOOLS)
def test_a_fake_one_is(tmp_path: Path, tool: str) -> None:
    path = fake(tmp_path / "bin", tool)
    env = {"PATH": str(path.parent)}
    assert run.capture([tool], env=env, timeout=30).stdout == "fake\n"
    assert run.capture([path], env={}, timeout=30).stdout == "fake\n"


def test_a_missing_one_is_missing() -> None:
    with pytest.raises(run.CannotStart):
        run.capture(["/no/such/nvcc"], env={}, timeout=30)


def test_python_is() -> None:
    assert run.capture([sys.executable, "-c", "print(1)"], env={}, timeout=30).stdout == "1\n"


def test_no_settings_of_this_machine_are_seen() -> None:
    assert os.listdir(os.environ["HOME"]) == []  # noqa: PTH208
    assert not {"CUDA_HOME", "CUDAARCHS", "CXX", "XDG_CACHE_HOME"} & set(os.environ)
    assert [name for name in os.environ if name.startswith("LLAMABUILD_")] == [
        "LLAMABUILD_CACHE_DIR"
    ]
