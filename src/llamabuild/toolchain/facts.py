"""The tables of ``facts.toml``."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["FACTS", "facts", "numbers"]

FACTS = Path(__file__).with_name("facts.toml")


@cache
def facts() -> dict[str, Any]:
    """Everything in ``facts.toml``."""
    import tomllib  # not needed once every probe is remembered

    return tomllib.loads(FACTS.read_text("utf-8"))


def numbers(version: str) -> tuple[int, ...]:
    """``13.0.88`` as numbers, to compare; whatever follows the first part that is none is cut."""
    found: list[int] = []
    for part in version.split("."):
        if not part.isdecimal():
            break
        found.append(int(part))
    return tuple(found)
