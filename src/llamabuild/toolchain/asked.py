"""What a user asks of a search for toolkits, NVIDIA's and AMD's alike, and what is said to it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from llamabuild.errors import ToolchainError
from llamabuild.toolchain.facts import numbers
from llamabuild.toolchain.model import Rejected, Rocm, Toolkit

__all__ = ["folder_or_version", "not_used", "nothing_fits", "of_version", "overruled"]

Kit = TypeVar("Kit", Toolkit, Rocm)


def folder_or_version(explicit: str | None) -> tuple[Path | None, str | None]:
    """Tell which of the two ``--toolkit`` names; neither if it was not said."""
    if explicit and re.fullmatch(r"\d+(\.\d+)*", explicit):
        return None, explicit
    return (Path(explicit).expanduser().absolute() if explicit else None), None


def of_version(found: Iterable[Kit], version: str) -> tuple[list[Kit], list[Rejected]]:
    """Part those of a version, such as ``12`` or ``12.8``, from all others."""
    wanted = numbers(version)
    fitting: list[Kit] = []
    others: list[Rejected] = []
    for one in found:
        if numbers(one.version)[: len(wanted)] == wanted:
            fitting.append(one)
        else:
            reason = f"is {one.version}, not {version}"
            others.append(Rejected(one.root, one.found_via, reason))
    return fitting, others


def nothing_fits(
    what: str, explicit: str, rejected: Sequence[Rejected], *, otherwise: str
) -> ToolchainError:
    """Say that nothing is what ``--toolkit`` asks for, and why.

    :param what: what was looked for, "CUDA toolkit".
    :param otherwise: what to do where none of ``rejected`` knows a cure.
    """
    reasons = "".join(f"\n  {entry}" for entry in rejected)
    return ToolchainError(
        f"no {what} fits --toolkit {explicit}{':' if reasons else ''}{reasons}",
        hint=next((entry.hint for entry in rejected if entry.hint), otherwise),
    )


def not_used(rejected: Iterable[Rejected], variables: Collection[str]) -> list[str]:
    """A word for everything that one of ``variables`` names and that cannot be used."""
    return [
        f"{entry.found_via} names {entry.path}, which is not used: {entry.reason}"
        for entry in rejected
        if entry.found_via in variables
    ]


def overruled(
    chosen: Kit, passed_over: Iterable[Rejected], found: Iterable[Kit]
) -> tuple[str, ...]:
    """A word for everything that the user named and did not get."""
    named = {one.root for one in found if one.named}
    return tuple(
        f"{entry.found_via} names {entry.path}, but {entry.reason}; using {chosen.label} instead"
        for entry in passed_over
        if entry.path in named
    )
