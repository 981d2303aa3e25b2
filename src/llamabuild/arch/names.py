"""Product names, as people write them and as drivers report them, and their architectures."""

from __future__ import annotations

import re
from difflib import get_close_matches
from functools import cache
from pathlib import Path

__all__ = ["product_archs", "products", "similar"]

#: Words that a driver or a shop adds to a name without changing the chip.
_DECORATION = re.compile(
    r"nvidia|amd|tm|gpu|graphics|series|laptop|mobile|notebook|with|max|q|design|generation|edition|workstation"
    r"|server|pcie|sxm[0-9]?|nvl|hbm[0-9]e?|[0-9]+gb"
)
#: A brand that may be left out.
_BRAND = re.compile(r"^(geforce|quadro|tesla|instinct|radeon(ai)?(pro)?)")


def product_archs(name: str) -> tuple[str, ...]:
    """Return the architectures ("89", "gfx1100") that go by ``name``.

    None: nobody knows the name. Several: it was given to different chips.
    """
    return _index().get(_key(name), ())


def products() -> dict[str, list[str]]:
    """Return all known product names by architecture, NVIDIA's first."""
    return {arch: list(names) for arch, names in _tables().items()}


def similar(name: str) -> tuple[str, ...]:
    """Return up to three known names that look like ``name``, likeliest first."""
    keys = get_close_matches(_key(name[:60]), _titles(), n=3)
    return tuple(_titles()[key] for key in keys)


def _key(name: str) -> str:
    """``rtx3080`` for ``NVIDIA RTX-3080 Laptop GPU``."""
    words = re.findall(r"[a-z0-9]+", name.lower())
    return "".join(word for word in words if not _DECORATION.fullmatch(word))


def _keys(name: str) -> set[str]:
    """With the brand and without."""
    return {_key(name), _BRAND.sub("", _key(name))}


@cache
def _index() -> dict[str, tuple[str, ...]]:
    index: dict[str, set[str]] = {}
    for arch, names in _tables().items():
        for name in names:
            for key in _keys(name):
                index.setdefault(key, set()).add(arch)
    return {key: tuple(sorted(archs, key=_numeric)) for key, archs in index.items()}


def _numeric(arch: str) -> tuple[int, str]:
    return len(arch), arch


@cache
def _titles() -> dict[str, str]:
    return {key: name for names in _tables().values() for name in names for key in _keys(name)}


@cache
def _tables() -> dict[str, list[str]]:
    import tomllib

    tables = tomllib.loads(Path(__file__).with_name("names.toml").read_text("utf-8"))
    return {**tables["nvidia"], **tables["amd"]}
