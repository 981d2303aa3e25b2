"""Is a module what was asked for, and will it load where it is meant to?"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Iterator, Sequence

from llamabuild.inspect.model import Module

__all__ = ["check"]

#: The CUDA driver's functions (``cuMemCreate``); the runtime's begin with "cuda", cuBLAS's with
#: "cublas".
_DRIVER_FUNCTION = re.compile(r"cu[A-Z]\w*")
_DRIVER = ("libcuda.so.1", "nvcuda.dll")
_GGML_FUNCTION = re.compile(r"(?:ggml|gguf)_\w+")
_GGML = ("libggml*.so*", "ggml*.dll")


def check(
    module: Module,
    *,
    archs: Sequence[str],
    exports: Sequence[str],
    allowed_needed: Sequence[str],
) -> tuple[str, ...]:
    """Problems of a finished module, each one sentence; empty when there is none.

    :param archs: exactly these and no others must be inside: "61-real", "90-virtual", "gfx906".
    :param exports: symbols that the host looks up.
    :param allowed_needed: shell patterns of the libraries it may need, such as ``libc.so.*``.
    """
    return tuple(_problems(module, archs, exports, allowed_needed))


def _problems(
    module: Module, archs: Sequence[str], exports: Sequence[str], allowed_needed: Sequence[str]
) -> Iterator[str]:
    if not module.entries:
        yield "it holds no GPU code"
    elif missing := [arch for arch in archs if arch not in module.labels]:
        yield f"code for {_list(missing)} was asked for and is not inside"
    if extra := [label for label in module.labels if label not in archs]:
        yield f"code for {_list(extra)} is inside and was not asked for"
    yield from _uneven(module)
    exported = set(module.exported)
    if absent := [name for name in exports if name not in exported]:
        yield f"it does not export {_list(absent)}, which its host looks up"
    for library in module.needed:
        if not _any_matches(module, [library], allowed_needed):
            yield f"it needs {library}, which is not on every machine with a driver"
    for folder in module.runpath:
        if not folder.startswith("$ORIGIN"):
            where = folder or "whatever folder it is loaded in"
            yield f"it looks for libraries in {where}, which is not where it will be"
    yield from _uncovered(module, _DRIVER_FUNCTION, _DRIVER, "the CUDA driver")
    yield from _uncovered(module, _GGML_FUNCTION, _GGML, "a ggml library")


def _uneven(module: Module) -> Iterator[str]:
    """A translation unit without code for an architecture that the others have."""
    labels: dict[int, set[str]] = {}
    readable: set[int] = set()  # A stand-in of the device linker, unless it could be read, is one.
    for entry in module.entries:
        labels.setdefault(entry.container, set()).add(entry.label)
        if entry.kernels is not None:
            readable.add(entry.container)
    everything = set(module.labels)
    short = [everything - found for unit, found in labels.items() if unit in readable]
    if lacking := sorted(set().union(*short)):
        count = sum(map(bool, short))
        yield f"{count} of its {len(short)} translation units hold no code for {_list(lacking)}"


def _uncovered(
    module: Module, functions: re.Pattern[str], libraries: Sequence[str], words: str
) -> Iterator[str]:
    wanted = [name for name in module.undefined if functions.fullmatch(name)]
    if wanted and not _any_matches(module, module.needed, libraries):
        yield (
            f"it calls {_list(wanted)} but does not name {words} ({libraries[0]}) among the "
            "libraries it needs"
        )


def _any_matches(module: Module, names: Iterable[str], patterns: Sequence[str]) -> bool:
    if module.format == "pe":  # Windows does not tell upper from lower case.
        names, patterns = [name.lower() for name in names], [each.lower() for each in patterns]
    return any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in patterns)


def _list(names: Iterable[str], most: int = 4) -> str:
    names = list(names)
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
