"""doctor on this very machine: whatever it is, no check breaks, and nothing is left behind."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from llamabuild.doctor import Line, Surroundings, examine
from llamabuild.toolchain import Machine


def look(folder: Path, environ: dict[str, str]) -> dict[str, tuple[Line, ...]]:
    report = examine(Surroundings(environ, folder, Machine.here()))
    return {section.name: section.lines for section in report.sections}


@pytest.mark.parametrize("environ", [dict(os.environ), {}], ids=["as it is", "with nothing"])
def test_no_check_breaks_here(tmp_path: Path, environ: dict[str, str]) -> None:
    found = look(tmp_path, environ)
    lines = [line for section in found.values() for line in section]
    assert [line.text for line in lines if "check of" in line.text] == []
    assert all(line.cure for line in lines if line.status == "trouble")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.nvcc
def test_the_toolkits_that_are_here_are_told(
    tmp_path: Path, need: Callable[[object, str], None]
) -> None:
    found = look(tmp_path, dict(os.environ))["toolkits"]
    toolkits = [line for line in found if line.text.startswith("CUDA ") and line.status == "ok"]
    need(toolkits, "a CUDA toolkit")
    assert all("compiles" in line.text for line in toolkits)
    assert any("serves CUDA" in line.text for line in found if line.status == "ok")


@pytest.mark.gpu
def test_the_gpus_that_are_here_are_told(
    tmp_path: Path, need: Callable[[object, str], None]
) -> None:
    found = look(tmp_path, dict(os.environ))["gpus"]
    need([line for line in found if line.text.startswith("GPU ")], "a GPU")
    assert any("runs code of CUDA up to" in line.text for line in found)
