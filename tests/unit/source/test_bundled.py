"""Our own kernels as a source like any other."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from llamabuild.source import bundled


def test_every_file_that_is_compiled_or_included_is_in_the_digest(tmp_path: Path) -> None:
    root = tmp_path / "kernels"
    shutil.copytree(bundled.ROOT, root)
    tree = bundled.describe(root)
    assert {*tree.device} <= {*tree.files}
    assert "include/llamabuild_kernels.h" in tree.files
    for name in tree.files:
        text = (root / name).read_bytes()
        (root / name).write_bytes(text + b"\n")
        assert bundled.describe(root).digest != tree.digest, name
        (root / name).write_bytes(text)
    assert bundled.describe(root).digest == tree.digest


def test_the_levels_are_those_of_the_code() -> None:
    assert {61, 80} <= set(bundled.describe().levels)


def test_what_must_be_exported_is_what_the_header_declares() -> None:
    header = (bundled.ROOT / "include/llamabuild_kernels.h").read_text("utf-8")
    declared = bundled.describe().declared
    assert {"llamabuild_version", "llamabuild_multiply", "llamabuild_path"} <= set(declared)
    assert len(declared) == header.count("\nLLAMABUILD_API ")


def test_a_folder_of_that_name_is_reached_by_a_path(bench: Any, samples: Any) -> None:
    samples.write(bench.cwd / "bundled", samples.ONE_FILE)
    assert bench.open("bundled").kind == "bundled"
    assert bench.open("./bundled").kind != "bundled"


def test_it_is_remembered_and_noticed_when_it_changes(bench: Any, monkeypatch: Any) -> None:
    root = bench.cwd / "kernels"
    shutil.copytree(bundled.ROOT, root)
    monkeypatch.setattr(bundled, "ROOT", root)
    monkeypatch.setattr(bundled, "describe", lambda describe=bundled.describe: describe(root))
    first = bench.open("bundled")
    assert bench.open("bundled") == first
    (root / "src" / "more.cu").write_text("int x;\n")
    assert "src/more.cu" in bench.open("bundled").device
    assert all(path.exists() for path in first.watched)
