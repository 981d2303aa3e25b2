"""What the project's own files say of each other is true."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())

#: Distributions that are imported under another name, and those that are started, not imported.
IMPORTED_AS = {"nvidia-ml-py": "pynvml"}
STARTED = {"cmake", "ninja"}


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=!~;\[ ]", requirement)[0] for requirement in requirements}


def imports(folder: Path) -> set[str]:
    """The packages that the modules in a folder import, other than Python's own and ours."""
    found = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names - {"llamabuild"}


def test_dependencies_are_what_is_used() -> None:
    project = PYPROJECT["project"]
    optional = project["optional-dependencies"]["verify"]
    declared = names([*project["dependencies"], *optional]) - STARTED
    assert {IMPORTED_AS.get(name, name) for name in declared} == imports(ROOT / "src")


def test_one_version_of_each_linter() -> None:
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    pinned = [need for need in PYPROJECT["dependency-groups"]["lint"] if need.startswith("ruff")]
    assert set(re.findall(r"ruff==[\d.]+", hooks)) == set(pinned)


def test_every_piece_of_the_cuda_extra_is_pinned() -> None:
    """A newer cicc writes PTX that an older ptxas refuses, so one open end breaks them all."""
    extras = PYPROJECT["project"]["optional-dependencies"]
    assert {"nvidia-cuda-nvcc", "nvidia-cuda-crt", "nvidia-nvvm"} <= names(extras["cuda13"])
    for requirement in (*extras["cuda13"], *extras["cuda13-blas"]):
        assert "==" in requirement or requirement == "llamabuild[cuda13]"
    versions = {
        requirement.partition("==")[2]
        for requirement in extras["cuda13"]
        if not requirement.startswith("cuda-toolkit")
    }
    assert len(versions) == 1


def test_ci_runs_what_the_readme_tells_everybody_to_run() -> None:
    readme = (ROOT / "README.md").read_text()
    (command,) = re.findall(r"^    (python3 -m venv .*nox)$", readme, re.MULTILINE)
    assert command in (ROOT / ".ci/run").read_text()


@pytest.mark.parametrize(
    "page", [*sorted(path.name for path in ROOT.glob("*.md")), "docs"], ids=lambda name: name
)
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    for file in path.rglob("*.md") if path.is_dir() else [path]:
        text = re.sub(r"```.*?```|`[^`\n]*`", "", file.read_text("utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)#\s]+)", text):
            if "://" not in target:
                assert (file.parent / target).exists(), f"{file.name}: {target}"
