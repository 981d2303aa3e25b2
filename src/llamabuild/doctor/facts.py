"""The tables of ``doctor.toml``."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["facts", "newer"]


@cache
def facts() -> dict[str, Any]:
    """Everything in ``doctor.toml``."""
    import tomllib

    return tomllib.loads(Path(__file__).with_name("doctor.toml").read_text("utf-8"))


def newer(version: str, other: str) -> bool:
    """Whether ``version`` (580.65.06) is newer than ``other``; not so where one is no number."""
    try:
        first, second = ([int(part) for part in text.split(".")] for text in (version, other))
    except ValueError:
        return False
    return first > second
