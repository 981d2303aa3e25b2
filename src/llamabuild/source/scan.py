"""What the texts of a source say about themselves: no version number is trusted for it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

__all__ = ["declared", "hip_oldest", "includes", "levels", "markers", "tables"]

_COMPARISON = re.compile(rb"__CUDA_ARCH__\s*(?:[<>=!]=|[<>])\s*(\w+)")
_NUMBER = re.compile(rb"^[ \t]*#[ \t]*define[ \t]+(\w+)[ \t]+(\d+)\b", re.MULTILINE)
_INCLUDE = re.compile(r"^[ \t]*#[ \t]*include[ \t]*\"([^\"\n]+)\"", re.MULTILINE)
_FUNCTION = re.compile(rb"\b(ggml_backend_cuda_\w+)[ \t]*\(")
#: ggml refuses an older HIP in so many words (``src/ggml-hip/CMakeLists.txt``).
_HIP_VERSION = re.compile(rb"\(\$\{hip_VERSION\}\s+VERSION_LESS\s+\"?(\d+)\.(\d+)")


@cache
def tables() -> dict[str, Any]:
    """The contents of ``flags.toml``."""
    import tomllib

    return tomllib.loads(Path(__file__).with_name("flags.toml").read_text("utf-8"))


def markers(role: str, text: bytes) -> tuple[str, ...]:
    """Return the markers of ``flags.toml`` that ``text`` holds, sorted.

    :param role: ``device``, ``core`` or ``cmake``.
    """
    words, patterns = _probes(role)
    found = {word.decode() for word in words.findall(text)} if words.pattern else set()
    found.update(name for name, pattern in patterns.items() if pattern.search(text))
    return tuple(sorted(f"{role}:{name}" for name in found))


def levels(text: bytes) -> tuple[int, ...]:
    """Compute capabilities times ten that CUDA code compares ``__CUDA_ARCH__`` with, sorted.

    Names are resolved by their ``#define``. What is below 5.0, ggml's own minimum, and AMD's
    numbers, which ggml counts from a million, are not meant.
    """
    numbers = {name: int(value) for name, value in _NUMBER.findall(text)}
    compared = {
        int(word) if word.isdigit() else numbers.get(word, 0) for word in _COMPARISON.findall(text)
    }
    return tuple(sorted({value // 10 for value in compared if 500 <= value < 10_000}))


def hip_oldest(cmake: bytes) -> tuple[int, int] | None:
    """Return the oldest HIP that CMake files accept, where they say so."""
    found = [(int(major), int(minor)) for major, minor in _HIP_VERSION.findall(cmake)]
    return max(found, default=None)


def declared(text: bytes) -> tuple[str, ...]:
    """Return the ``ggml_backend_cuda_*`` functions that a header names, sorted."""
    return tuple(sorted({name.decode() for name in _FUNCTION.findall(text)}))


def includes(text: str) -> tuple[str, ...]:
    """Return the names in ``#include "..."``, in order, whether or not a condition hides them."""
    return tuple(dict.fromkeys(_INCLUDE.findall(text)))


@cache
def _probes(role: str) -> tuple[re.Pattern[bytes], dict[str, re.Pattern[bytes]]]:
    patterns = tables()["patterns"]
    wanted = {
        marker.removeprefix(f"{role}:")
        for marker in _all_markers()
        if marker.startswith(f"{role}:")
    }
    words = "|".join(sorted(re.escape(word) for word in wanted - patterns.keys()))
    return (
        re.compile(rb"\b(?:%s)\b" % words.encode() if words else b""),
        {name: re.compile(patterns[name].encode()) for name in wanted & patterns.keys()},
    )


def _all_markers() -> Iterable[str]:
    for entry in chain(tables()["always"], *tables()["flags"].values()):
        yield from entry.get("needs", ())
        yield from entry.get("lacks", ())
