"""Source archives that are really on the package index, opened, and their core really linked."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from llamabuild import run
from llamabuild.memo import Memo
from llamabuild.source import SourceTree, flag_effects, open_source

pytestmark = pytest.mark.network

Open = Callable[[str], SourceTree]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Open:
    """Open a source; what was downloaded stays for the other tests of this file."""
    folder = tmp_path_factory.mktemp("cache")
    memo = Memo(folder / "probes")

    def open_it(spec: str) -> SourceTree:
        return open_source(
            spec, scratch=folder / "sources", environ=os.environ, cwd=Path.cwd(), memo=memo
        )

    return open_it


def test_one_file_of_2024(opened: Open) -> None:
    tree = opened("pypi:llama-cpp-python==0.2.56")
    assert (tree.kind, tree.version) == ("llama-cpp-python", "0.2.56")
    assert (tree.layout, tree.flavors) == ("one-file", ("self-contained",))
    assert tree.levels == (60, 61, 70)
    assert tree.defines == ("NDEBUG", "GGML_USE_CUBLAS")
    assert [Path(name).name for name in tree.core] == [
        "ggml.c",
        "ggml-alloc.c",
        "ggml-backend.c",
        "ggml-quants.c",
    ]
    effects = flag_effects(tree, "self-contained")
    assert effects["force-mmq"].defines == ("GGML_CUDA_FORCE_MMQ",)
    assert effects["fa=all"].unsupported


def test_the_layout_of_2026(opened: Open) -> None:
    tree = opened("pypi:llama-cpp-python==0.3.36")
    assert (tree.layout, tree.flavors) == ("split", ("backend-dl", "self-contained"))
    assert (tree.ggml_version, tree.ggml_cmake) == ("0.25.3", "vendor/llama.cpp/ggml")
    assert {60, 61, 70, 75, 80, 89, 90, 120} <= set(tree.levels)
    assert len(tree.device) > 150
    dropped = flag_effects(tree, "self-contained")["fa=default"].drop
    kept = [name for name in tree.device if "fattn-vec" in name and name not in dropped]
    assert len(kept) == 4
    assert not flag_effects(tree, "backend-dl")["fa=off"].unsupported


@pytest.mark.parametrize("version", ["0.2.56", "0.3.36"])
def test_the_core_needs_nothing_but_itself_and_the_cuda_code(
    opened: Open, need: Callable[[object, str], None], tmp_path: Path, version: str
) -> None:
    for tool in ("gcc", "g++", "nm"):
        need(shutil.which(tool), tool)
    tree = opened(f"pypi:llama-cpp-python=={version}")
    defines = [f"-D{name}" for name in tree.defines]
    for name, text in tree.generated:
        (tmp_path / Path(name).name).write_text(text, "utf-8")
    objects = []
    for name in tree.core:
        objects.append(tmp_path / f"{Path(name).name}.o")
        compiler = ["gcc"] if name.endswith(".c") else ["g++", "-std=c++17"]
        done = run.capture(
            [
                *compiler,
                *("-w", "-O0", "-fPIC", "-D_GNU_SOURCE", *defines),
                *(f"-I{tree.root / folder}" for folder in tree.includes),
                *(f"-I{tmp_path}", "-c", tree.root / name, "-o", objects[-1]),
            ],
            env=os.environ,
            timeout=300,
        )
        assert done.returncode == 0, done.text
    done = run.capture(["nm", "-P", *objects], env=os.environ, timeout=60)
    symbols = [line.split()[:2] for line in done.stdout.splitlines() if not line.endswith(":")]
    defined = {name for name, kind in symbols if kind not in "Uw"}
    missing = {name for name, kind in symbols if kind == "U" and "ggml" in name} - defined
    device = "".join((tree.root / name).read_text("utf-8", "replace") for name in tree.device)
    assert [name for name in missing if f"{name}(" not in device] == []
