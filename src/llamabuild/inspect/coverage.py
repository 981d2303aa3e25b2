"""Which code a driver picks for a card, and what becomes of it there. Pure.

NVIDIA: in each container the driver takes machine code of the card's own major version and the
highest minor version not above the card's; failing that it compiles the highest PTX not above the
card. Code with the suffix "a" serves exactly its architecture, "f" its family: the same major
version and not above the card. Sources: CUDA C++ Programming Guide, "Binary Compatibility" and
"PTX Compatibility"; NVIDIA's "Blackwell and CUDA 12.9 Introduce Family-Specific Architecture
Features".

AMD: a code object serves exactly its processor, or for a generic target its line, and a card whose
modes (xnack, sramecc) are as the target says. Source: "User Guide for AMDGPU Backend", "Target ID".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from llamabuild.arch import CudaArch, compilers, override_for, runs_natively
from llamabuild.inspect import drivers
from llamabuild.inspect.model import Entry, Kernel, Module

__all__ = ["Coverage", "Runs", "coverage", "gained", "pick"]

#: natively; by machine code of an older card of its major version; after the driver has compiled
#: PTX at the first start, which takes seconds to minutes; not at all.
Runs = Literal["native", "older", "jit", "no"]
_WORST_LAST: tuple[Runs, ...] = ("native", "older", "jit", "no")


@dataclass(frozen=True)
class Coverage:
    """What a module does on one architecture."""

    arch: str  # "61", "gfx1032"
    runs: Runs
    entries: tuple[str, ...]  # architectures picked, "60"; several where containers differ
    kernels: int | None  # in the code picked; None where some could not be read
    trapped: tuple[str, ...] | None  # mangled names
    suspect: tuple[str, ...]
    missing: tuple[str, ...]  # that the same translation unit has for another architecture
    min_driver: str | None
    override: str  # the HSA_OVERRIDE_GFX_VERSION with which it would run; empty where none would

    @property
    def healthy(self) -> bool:
        """Will every kernel do its work here, as far as one can tell?

        Kernels that give up or are missing in code made for this very card are no defect: the
        source has none of that kind for it, and its host code, which knows the card, does not
        choose them.
        """
        if self.runs in ("native", "no"):
            return self.runs == "native"
        return self.trapped == () and not self.missing


def coverage(module: Module, arch: str) -> Coverage:
    """Say what ``module`` does on a card.

    :param arch: "61" or "gfx1032", or with the card's modes "gfx90a:sramecc+:xnack-".
    """
    picked: list[Entry] = []
    missing: set[str] = set()
    runs: Runs = "native" if module.entries else "no"
    for container in module.containers:
        how, entry = pick(container, arch)
        runs = max(runs, how, key=_WORST_LAST.index)
        if entry is not None:
            picked.append(entry)
            if entry.kernels is not None:
                missing |= _names(container) - _names([entry])
    if runs == "no":
        return Coverage(arch, runs, (), 0, (), (), (), None, _override(module, arch))
    known = all(entry.kernels is not None for entry in picked)
    kernels = [kernel for entry in picked for kernel in entry.kernels or ()]
    judged = known and all(kernel.trap != "unknown" for kernel in kernels)
    return Coverage(
        arch,
        runs,
        tuple(dict.fromkeys(entry.arch for entry in picked)),
        len(kernels) if known else None,
        _with(kernels, "trapped") if judged else None,
        _with(kernels, "suspect"),
        tuple(sorted(missing)),
        _driver(picked, arch),
        "",
    )


def _names(entries: Iterable[Entry]) -> set[str]:
    return {kernel.name for entry in entries for kernel in entry.kernels or ()}


def _with(kernels: Iterable[Kernel], trap: str) -> tuple[str, ...]:
    return tuple(kernel.name for kernel in kernels if kernel.trap == trap)


def pick(entries: Iterable[Entry], arch: str) -> tuple[Runs, Entry | None]:
    """What the driver chooses for a card from the code of one container."""
    if arch.startswith("gfx"):
        found = [
            entry for entry in entries if entry.kind == "gcn" and runs_natively(arch, [entry.arch])
        ]
        # A target of its own, and one that names the modes, go before a generic one.
        best = max(found, key=lambda entry: ("generic" not in entry.arch, entry.arch), default=None)
        return ("native" if best else "no"), best
    card = int(arch)
    fitting = [entry for entry in entries if entry.kind != "gcn" and _fits(entry, card)]
    best = max(fitting, key=lambda entry: (entry.kind == "sass", _rank(entry.arch)), default=None)
    if best is None:
        return "no", None
    if best.kind == "ptx":
        return "jit", best
    return ("native" if _rank(best.arch)[0] == card else "older"), best


def gained(made_for: str, card: str) -> tuple[str, ...]:
    """What a card has and the code it is given was made without: ("products of four bytes …",)."""
    if card.startswith("gfx"):
        return ()
    low, high = _rank(made_for)[0], _rank(card)[0]
    levels: Mapping[str, str] = _facts()["levels"]
    return tuple(what for level, what in levels.items() if low < int(level) <= high)


def _rank(arch: str) -> tuple[int, str]:
    """Orders by number, then "" before "a" before "f"; exact code ("a") is chosen over "f"."""
    number = int(arch.rstrip("af"))
    return number, {"": "", "f": "f", "a": "z"}[arch[len(str(number)) :]]


def _fits(entry: Entry, card: int) -> bool:
    number, suffix = _rank(entry.arch)
    if suffix == "z":
        return number == card
    if number > card:
        return False
    same_major = number // 10 == card // 10
    if entry.kind == "ptx":
        return same_major if suffix else True
    if not same_major:
        return False
    tegra = _facts()["tegra"]
    return number == card or (number not in tegra and card not in tegra)


def _override(module: Module, card: str) -> str:
    """The version under which an AMD card would be given code of its own kind, ``10.3.0``."""
    if not card.startswith("gfx"):
        return ""
    found = override_for(card, (entry.arch for entry in module.entries if entry.kind == "gcn"))
    return found.version if found else ""


def _driver(picked: Iterable[Entry], arch: str) -> str | None:
    """The first driver that runs all of it and knows the card; None where nobody can tell."""
    if arch.startswith("gfx"):
        return None
    needed = [drivers.minimum(entry.cuda, jit=entry.kind == "ptx") for entry in picked]
    made_for_card = compilers([CudaArch(int(arch))])
    if made_for_card is not None:
        needed.append(drivers.minimum(made_for_card.first, jit=True))
    if None in needed:
        return None
    known = [version for version in needed if version is not None]
    return max(known, key=lambda text: [int(part) for part in text.split(".")])


@cache
def _facts() -> dict[str, Any]:
    import tomllib

    return tomllib.loads(Path(__file__).with_name("coverage.toml").read_text("utf-8"))
