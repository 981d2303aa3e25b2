"""Which driver runs what a CUDA toolkit made. The tables are in ``drivers.toml``."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["cuda_of_ptx", "minimum"]

Version = tuple[int, int]


def cuda_of_ptx(language: Version) -> Version | None:
    """The CUDA that brought a version of the PTX language: (11, 8) for (7, 8); None if unknown."""
    cuda = _tables()["language"].get(_dotted(language))
    if cuda is None:
        return None
    major, minor = cuda.split(".")
    return int(major), int(minor)


def minimum(cuda: Version | None, *, jit: bool) -> str | None:
    """The first driver on Linux that runs what this CUDA made; None where nobody here knows.

    :param jit: it is PTX, which the driver has to understand, rather than machine code.
    """
    if cuda is None:
        return None
    tables = _tables()
    if not jit and str(cuda[0]) in tables["machine_code"]:
        return str(tables["machine_code"][str(cuda[0])])
    # A toolkit without an entry (12.7 was never published) is served by the next one's driver.
    later = [key for key in map(_version, tables["ptx"]) if key >= cuda]
    return str(tables["ptx"][_dotted(min(later))]) if later else None


def _dotted(version: Version) -> str:
    return f"{version[0]}.{version[1]}"


def _version(text: str) -> Version:
    major, minor = text.split(".")
    return int(major), int(minor)


@cache
def _tables() -> dict[str, dict[str, Any]]:
    import tomllib

    return tomllib.loads(Path(__file__).with_name("drivers.toml").read_text("utf-8"))
