"""The tables of ``facts.toml``: which CUDA compiles which architecture, and what names exist."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

from llamabuild.arch.model import CudaArch

__all__ = [
    "CudaRange",
    "compilers",
    "describe",
    "families",
    "hip_features",
    "hip_levels",
    "known_cuda",
]

Version: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class CudaRange:
    """The toolkits from ``first`` (included) to ``dropped`` (excluded; none: still compiled)."""

    first: Version
    dropped: Version | None

    def __contains__(self, version: Version) -> bool:
        return self.first <= version and (self.dropped is None or version < self.dropped)

    def __str__(self) -> str:
        """``CUDA 12.8 or newer, but older than 13.0``."""
        older = "" if self.dropped is None else f", but older than {_dotted(self.dropped)}"
        return f"CUDA {_dotted(self.first)} or newer{older}"


def known_cuda() -> tuple[CudaArch, ...]:
    """Every real NVIDIA architecture of the table, in numeric order."""
    return tuple(sorted(CudaArch.from_code(f"sm_{name}") for name in _tables()["cuda"]))


def compilers(archs: Iterable[CudaArch]) -> CudaRange | None:
    """Return the toolkits that compile every one of ``archs``, machine code or PTX alike.

    None when no one toolkit does (6.1 with 11.0) or when the table does not know one of them.
    """
    entries = [_tables()["cuda"].get(arch.name) for arch in archs]
    if not entries or None in entries:
        return None
    first = max(_version(entry["first"]) for entry in entries)
    dropped = min((_version(e["dropped"]) for e in entries if "dropped" in e), default=None)
    return CudaRange(first, dropped) if dropped is None or first < dropped else None


def describe(arch: CudaArch) -> str:
    """Say in one sentence which toolkits compile ``arch``, and why not the others."""
    needed = compilers([arch])
    if needed is None:
        return f"{arch.capability} is in no CUDA release known here"
    sentence = f"{arch.capability} needs {needed}"
    if needed.dropped is None:
        return sentence
    new_name = _tables()["cuda"][arch.name].get("renamed")
    if new_name is not None:
        return f"{sentence}, which calls it {new_name}"
    lowest = min(known for known in known_cuda() if _compiles(needed.dropped, known))
    return f"{sentence}, which dropped everything below {lowest.capability}"


def families() -> Mapping[str, str]:
    """Generations by name in lower case, each a list for the parser: ``ampere``: 8.0 8.6+PTX."""
    return _tables()["families"]  # type: ignore[no-any-return]


def hip_features() -> Mapping[str, frozenset[str]]:
    """AMD targets by name, each with the features (xnack, sramecc) that it can be pinned to."""
    table = _tables()["hip"]
    return {
        target: frozenset(feature for feature in ("sramecc", "xnack") if target in table[feature])
        for target in table["targets"]
    }


def hip_levels() -> tuple[str, ...]:
    """AMD targets at which ggml's sources switch to other device code, oldest hardware first."""
    return tuple(_tables()["hip"]["levels"])


def _compiles(version: Version, arch: CudaArch) -> bool:
    toolkits = compilers([arch])
    return toolkits is not None and version in toolkits


def _version(text: str) -> Version:
    major, minor = text.split(".")
    return int(major), int(minor)


def _dotted(version: Version) -> str:
    return f"{version[0]}.{version[1]}"


@cache
def _tables() -> dict[str, Any]:
    import tomllib

    return tomllib.loads(Path(__file__).with_name("facts.toml").read_text("utf-8"))
