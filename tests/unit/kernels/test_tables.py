"""The committed codebooks are those that the gguf package holds today."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

KERNELS = Path(__file__).parents[3] / "kernels"


def test_generating_the_tables_again_changes_nothing():
    pytest.importorskip("gguf")
    generator = runpy.run_path(str(KERNELS / "generate_tables.py"))
    assert generator["render"]() == (KERNELS / "src" / "tables.h").read_text()
