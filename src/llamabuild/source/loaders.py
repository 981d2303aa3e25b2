"""Which llamafiles could load a finished module, told by the functions that it exports."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

from llamabuild.source.flags import SELF_CONTAINED
from llamabuild.source.llamafile import loader_symbols, release_number, releases

__all__ = ["loaders"]


def loaders(exported: Collection[str]) -> tuple[tuple[str, str], ...]:
    """Ranges of releases, first and last (empty: and later), that could load a module.

    A release refuses a module that lacks one of the functions it looks up. The module must also
    have the release's own data layout. A classic one does not state it, but its functions tell
    roughly of which sources it is: each range is one layout that these may have, and if there are
    several, only one of them is right.

    :param exported: the functions of a module that borrows none of ggml's from its host.
    """
    functions = frozenset(exported)
    if "ggml_cuda_link" not in functions:
        return (("0.10", ""),) if functions.issuperset(SELF_CONTAINED) else ()
    layouts = {_layout(release) for release in releases() if _may_be_of(functions, release)}
    fitting = (
        release
        for release in releases()
        if _layout(release) in layouts and functions.issuperset(loader_symbols(release))
    )
    groups = (list(group) for _, group in groupby(fitting, key=_layout))
    return tuple((group[0], group[-1]) for group in groups)


def _may_be_of(exported: Collection[str], release: str) -> bool:
    """May the module be compiled from the sources of a release?"""
    return all(
        (name in exported) == (release_number(release) >= release_number(first))
        for name, first in _facts()["marks"].items()
    )


def _layout(release: str) -> str:
    """The first release with the data layout of ``release``."""
    layouts: list[str] = _facts()["layouts"]
    return [first for first in layouts if release_number(first) <= release_number(release)][-1]


@cache
def _facts() -> dict[str, Any]:
    import tomllib

    return tomllib.loads(Path(__file__).with_name("loaders.toml").read_text("utf-8"))
