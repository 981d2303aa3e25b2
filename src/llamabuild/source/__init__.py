"""Any source that a user has, as one :class:`SourceTree` that later rooms can compile."""

from __future__ import annotations

from llamabuild.source.find import Found, find_source
from llamabuild.source.flags import Effect, flag_effects, required_symbols
from llamabuild.source.llamafile import (
    classic_names,
    loader_symbols,
    looks_classic,
    release_number,
    releases,
    releases_of,
)
from llamabuild.source.loaders import loaders
from llamabuild.source.model import ClassicRecipe, SourceTree
from llamabuild.source.opening import open_source

__all__ = [
    "ClassicRecipe",
    "Effect",
    "Found",
    "SourceTree",
    "classic_names",
    "find_source",
    "flag_effects",
    "loader_symbols",
    "loaders",
    "looks_classic",
    "open_source",
    "release_number",
    "releases",
    "releases_of",
    "required_symbols",
]
