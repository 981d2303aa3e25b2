"""Programs that stand in for the one that loads a module."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llamabuild.verify.trial import Trial

REAL_PYTHON = sys.executable

#: The report of a module that does everything right.
SOUND: tuple[dict[str, Any], ...] = (
    {"ready": True},
    {"flavor": "bundled", "symbols": 21, "missing": []},
    {"devices": 2},
    {"card": {"index": 0, "name": "GeForce GTX 1080", "arch": "61", "code": "61"}},
    {"architectures": "610"},
    {"types": ["q4_0", "q4_K"]},
    {"doing": "q4_0, 2 x 32 times 32 x 3"},
    {"row": {
        "type": "q4_0", "m": 2, "n": 3, "k": 32, "path": "dp4a", "error": 5e-3, "same": 1e-7,
        "right": True,
    }},
    {"end": True},
)  # fmt: skip


@pytest.fixture
def program(tmp_path: Path) -> Callable[..., Path]:
    """Make a program that writes a report to its last argument but one, and then does more."""

    def make(*lines: dict[str, Any], then: str = "", name: str = "program") -> Path:
        text = "".join(json.dumps(line) + "\n" for line in lines)
        path = tmp_path / name
        path.write_text(
            f"#!{REAL_PYTHON} -S\nimport os, signal, sys, time\n"
            "report = next(word for word in sys.argv if word.endswith('report'))\n"
            f"file = open(report, 'w')\nfile.write({text!r})\nfile.flush()\n{then}\n"
        )
        path.chmod(0o755)
        return path

    return make


@pytest.fixture
def trial() -> Callable[..., Trial]:
    """Make a trial of these lines."""

    def make(
        *lines: dict[str, Any],
        returncode: int | None = 0,
        damaged: bool = False,
        words: str = "",
    ) -> Trial:
        return Trial(returncode, lines, damaged, words, 1.5)

    return make
