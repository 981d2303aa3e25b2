"""Which AMD code runs on which card: as it is, under another card's name, or not at all. Pure.

The facts are in ``overrides.toml``, each with its source.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

__all__ = [
    "Override",
    "gfx_target",
    "gfx_version",
    "known_wrong",
    "listed_targets",
    "override_for",
    "runs_natively",
]

#: The numbers of a target: "gfx1030" is 10, 3, 0. Minor version and stepping have a digit each,
#: hexadecimal for the stepping ("gfx90a" is 9, 0, 10).
_NUMBERED = re.compile(r"gfx([0-9]{1,2})([0-9])([0-9a-f])")


@dataclass(frozen=True)
class Override:
    """How to make ROCm's runtime give a card the code of its kin.

    :param version: value of HSA_OVERRIDE_GFX_VERSION, such as "10.3.0".
    :param runs_as: the target whose code it will be given, "gfx1030".
    :param warning: what is known to go wrong; "" where nothing is.
    :param standing: whether LLVM or AMD says that it works, or only users do.
    :param source: who says so, and where.
    """

    version: str
    runs_as: str
    warning: str
    standing: Literal["documented", "reported"]
    source: str


def gfx_target(number: int) -> str:
    """Return the target that the kernel's ``gfx_target_version`` means: 90010 is "gfx90a".

    It is major version x 10000 + minor version x 100 + stepping, all decimal; "" for what cannot
    be a target, such as the 0 of a processor. Source: ``kfd_device.c`` of Linux.
    """
    major, rest = divmod(number, 10000)
    minor, stepping = divmod(rest, 100)
    if not 1 <= major < 100 or minor > 9 or stepping > 15:
        return ""
    return f"gfx{major}{minor}{stepping:x}"


def gfx_version(target: str) -> str:
    """Return the version by which ROCm knows a target: "9.0.10" for "gfx90a".

    :raises ValueError: a generic target, or none at all.
    """
    match = _NUMBERED.fullmatch(_processor(target))
    if match is None:
        raise ValueError(f"{target!r} has no version")
    return f"{match[1]}.{match[2]}.{int(match[3], 16)}"


def runs_natively(card: str, compiled: Iterable[str]) -> bool:
    """Tell whether a card runs code for one of ``compiled`` as it is.

    Code for a generic target runs on the whole family; code that is pinned to a mode (xnack,
    sramecc) only on a card in that mode. The card's modes may be left out.

    :param card: "gfx90a", or with its modes "gfx90a:sramecc+:xnack-".
    """
    return any(_serves(target, card) for target in compiled)


def override_for(card: str, compiled: Iterable[str]) -> Override | None:
    """Find the best override by which a card would run code for one of ``compiled``.

    None where none would, and where none is needed: see :func:`runs_natively`.
    """
    targets = tuple(compiled)
    if runs_natively(card, targets):
        return None
    processor, *modes = card.split(":")
    for entry in _tables()["kin"]:
        if processor not in entry["cards"]:
            continue
        for code in entry["code"]:
            if runs_natively(":".join((code, *modes)), targets):
                return Override(
                    version=gfx_version(code),
                    runs_as=code,
                    warning=entry.get("warning", ""),
                    standing=entry["standing"],
                    source=entry["source"],
                )
    return None


def known_wrong(card: str, compiled: Iterable[str]) -> tuple[str, ...]:
    """Say why a card cannot pass for what ``compiled`` was made for, where that is known."""
    return tuple(_reasons(_processor(card), {_processor(target) for target in compiled}))


def listed_targets() -> tuple[str, ...]:
    """What AMD's own binaries are compiled for."""
    return tuple(_tables()["listed"]["targets"])


def _reasons(card: str, compiled: set[str]) -> Iterator[str]:
    for entry in _tables()["wrong"]:
        tempting = [code for code in entry["code"] if code in compiled]
        if tempting and card in entry["cards"]:
            yield f"{card} cannot run code for {', '.join(tempting)}: {entry['reason']}"


def _serves(target: str, card: str) -> bool:
    processor, *wanted = target.split(":")
    own, *modes = card.split(":")
    if processor != own and own not in _tables()["generic"].get(processor, ()):
        return False
    opposite = str.maketrans("+-", "-+")
    return not any(mode.translate(opposite) in modes for mode in wanted)


def _processor(target: str) -> str:
    return target.partition(":")[0]


@cache
def _tables() -> dict[str, Any]:
    import tomllib

    return tomllib.loads(Path(__file__).with_name("overrides.toml").read_text("utf-8"))
