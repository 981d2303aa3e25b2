"""The tables of ``advise.toml``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["Type", "facts", "mixtures", "type_of", "types"]


@dataclass(frozen=True)
class Type:
    """A way to store weights. ``number`` is its number in a GGUF file."""

    name: str
    number: int
    block: int
    bytes: int
    family: str
    mmq: bool

    @property
    def bits(self) -> float:
        """Bits for one weight."""
        return 8 * self.bytes / self.block

    def size(self, weights: int) -> int:
        """Bytes of so many weights, whole blocks."""
        return -(-weights // self.block) * self.bytes


@dataclass(frozen=True)
class Mixture:
    """What a file's name says, ``Q4_K_M``: mostly ``types``, ``bits`` for a weight on average."""

    name: str
    bits: float
    types: tuple[Type, ...]


@cache
def facts() -> dict[str, Any]:
    """Everything in ``advise.toml``."""
    import tomllib

    return tomllib.loads(Path(__file__).with_name("advise.toml").read_text("utf-8"))


@cache
def types() -> Mapping[str, Type]:
    """Every type by its name."""
    return {
        name: Type(name, row["id"], row["block"], row["bytes"], row["family"], row.get("mmq", True))
        for name, row in facts()["types"].items()
    }


@cache
def _by_number() -> Mapping[int, Type]:
    return {known.number: known for known in types().values()}


def type_of(number: int) -> Type | None:
    """The type with a GGUF file's number; none where nobody here knows it."""
    return _by_number().get(number)


@cache
def mixtures() -> tuple[Mixture, ...]:
    """Every mixture, the smallest first."""
    rows = facts()["mixtures"].items()
    return tuple(
        Mixture(name, row["bits"], tuple(types()[one] for one in row["types"]))
        for name, row in rows
    )
