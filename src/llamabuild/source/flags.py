"""Our flags, said in the words of each source (``flags.toml``)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from llamabuild.source import scan
from llamabuild.source.bundled import BUNDLED
from llamabuild.source.model import SourceTree

__all__ = ["SELF_CONTAINED", "Effect", "always", "flag_effects", "required_symbols"]

#: What llamafile 0.10 and later look up (llamafile/cuda.c); the last only from 0.10.4 on.
SELF_CONTAINED = (
    "ggml_backend_cuda_init",
    "ggml_backend_cuda_reg",
    "ggml_backend_cuda_get_device_count",
)


@dataclass(frozen=True)
class Effect:
    """What one flag changes for one source and flavor.

    :param options: CMake cache entries, ``NAME=VALUE``, for ``backend-dl``.
    :param nvcc: arguments of nvcc; ``clang``: of clang, which compiles for AMD GPUs.
    :param add: device files to compile beside :attr:`SourceTree.device`.
    :param drop: device files of the tree to leave out.
    :param note: what the user should know; empty when there is nothing.
    :param unsupported: why this source cannot do it; empty when it can.
    """

    defines: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    nvcc: tuple[str, ...] = ()
    clang: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    add: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    note: str = ""
    unsupported: str = ""


def flag_effects(tree: SourceTree, flavor: str) -> Mapping[str, Effect]:
    """Say each of our flags to ``tree`` when it is built as ``flavor``.

    Keys: ``force-mmq``, ``force-cublas``, ``blas=tiny``, ``blas=cublas``,
    ``blas=hipblas``, ``hip``, ``no-iq``, ``fa=off``,
    ``fa=default``, ``fa=all``, ``fast-math``, ``no-fast-math``, ``compress``. One ``blas=`` and
    one ``fa=`` always apply; the mode of ``compress`` is appended to what its effect holds.
    """
    found = frozenset(tree.markers)
    return {
        flag: _effect(next(entry for entry in entries if _applies(entry, flavor, found)), tree)
        for flag, entries in scan.tables()["flags"].items()
    }


def always(kind: str, markers: Iterable[str], ggml_version: str | None) -> Effect:
    """Return what a self-contained module is compiled with, whatever the flags."""
    found = frozenset(markers)
    entries = [
        entry
        for entry in scan.tables()["always"]
        if entry.get("kind", kind) == kind and _found(entry, found)
    ]
    return Effect(
        defines=tuple(
            define.format(version=ggml_version or "unknown")
            for entry in entries
            for define in entry.get("defines", ())
        ),
        nvcc=tuple(flag for entry in entries for flag in entry.get("nvcc", ())),
    )


def required_symbols(tree: SourceTree, flavor: str) -> tuple[str, ...]:
    """Return what a module must export, or its host refuses it."""
    if tree.recipe is not None:
        return tree.recipe.required
    if flavor == BUNDLED:
        return tree.declared
    if flavor == "backend-dl":
        return ("ggml_backend_init",)
    return tuple(name for name in SELF_CONTAINED if name in tree.declared)


def _applies(entry: Mapping[str, Any], flavor: str, markers: frozenset[str]) -> bool:
    return flavor in entry.get("flavors", (flavor,)) and _found(entry, markers)


def _found(entry: Mapping[str, Any], markers: frozenset[str]) -> bool:
    needs, lacks = entry.get("needs", ()), entry.get("lacks", ())
    return markers.issuperset(needs) and markers.isdisjoint(lacks)


def _effect(entry: Mapping[str, Any], tree: SourceTree) -> Effect:
    return Effect(
        defines=(*entry.get("defines", ()), *_pairs(entry.get("pairs", ""))),
        options=tuple(entry.get("options", ())),
        nvcc=tuple(entry.get("nvcc", ())),
        clang=tuple(entry.get("clang", ())),
        libraries=tuple(entry.get("libraries", ())),
        add=tuple(entry.get("add", ())),
        drop=tuple(
            name
            for name in tree.device
            if _matches(name, entry.get("drop", ())) and not _matches(name, entry.get("keep", ()))
        ),
        note=entry.get("note", ""),
        unsupported=entry.get("unsupported", ""),
    )


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(f"/{name}", pattern) for pattern in patterns)


def _pairs(which: str) -> list[str]:
    """One define for each combination of K and V: fattn.cu does not compile without them."""
    if not which:
        return []
    types = scan.tables()["types"]
    return [
        f"GGML_CUDA_FA_{k}_{v}={int(which == 'all' or (k == v and k in types['default']))}"
        for v in types["all"]
        for k in types["all"]
    ]
