"""What this room hands over: a source with everything that later rooms need to know about it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["ClassicRecipe", "SourceTree"]


@dataclass(frozen=True)
class ClassicRecipe:
    """How a range of llamafile releases compiles and loads its ``classic`` GPU module.

    ``first`` and ``last`` are the releases it was read from. ``defines`` are those of the
    release's own loader, in its order, without the choice of a BLAS and of the code size.
    ``required`` are the symbols without which the loader refuses a module. ``code_size`` says
    that the loader leaves the optional kernels out unless its user asks for them.
    ``tinyblas_cuda`` is the oldest CUDA whose compiler takes the tinyBLAS variant.
    ``link_returns`` is the C type that ``ggml_cuda_link`` returns, ``cxx_standard`` the C++
    standard that the loader asks for outside Windows (none: the compiler's default).
    """

    first: str
    last: str
    defines: tuple[str, ...]
    required: tuple[str, ...]
    fast_math: bool
    code_size: bool
    link_returns: str
    cxx_standard: int | None = None
    tinyblas_cuda: tuple[int, int] | None = None

    @property
    def releases(self) -> str:
        """``0.8.7 to 0.8.12``, or one release."""
        return self.first if self.first == self.last else f"{self.first} to {self.last}"


@dataclass(frozen=True)
class SourceTree:
    """A source that can be compiled, found and described.

    Every name in it is relative to ``root`` and uses ``/``. The digest covers the names and the
    contents of ``files``, and nothing else of the folder is needed to build.

    :param kind: ``llamafile``, ``llama.cpp``, ``ggml``, ``whisper.cpp``, ``llama-cpp-python``
        or ``bundled``.
    :param version: as the source states it; a range where several releases have the same
        sources (``0.8.10-0.8.11``); none where nothing states it.
    :param root: a folder of the user, or a verified copy in the cache.
    :param digest: SHA-256 of names and contents: the same in any folder, at any time.
    :param layout: ``classic``, ``one-file``, ``split`` or ``kernels`` (our own).
    :param flavors: what can be built of it, the default first.
    :param origin: what the user gave.
    :param notes: sentences for the user.
    :param watched: the user's own files and folders that this answer depends on.
    :param core: C and C++ files that a self-contained module links in; else empty.
    :param device: CUDA files, every template instance included.
    :param includes: folders for the compilers to search.
    :param defines: for every file of a ``classic`` or ``self-contained`` module.
    :param nvcc_flags: for every CUDA file, unless its own CMake compiles it.
    :param fast_math: whether the source's own build approximates divisions and square roots.
    :param levels: compute capabilities times ten (61, 75) at which device code changes.
    :param specific: architectures (``90a``) with code of their own that no other GPU would miss:
        all that run the machine code for 9.0 run that for 9.0a.
    :param declared: the functions of its header: ``ggml_backend_cuda_*`` or ``llamabuild_*``.
    :param markers: what :mod:`llamabuild.source.flags` recognised in the texts.
    :param ggml_cmake: the folder whose CMake builds ``backend-dl``, where there is one.
    :param ggml_version: ggml's own version, where it states one.
    :param generated: names and texts of files that a ``self-contained`` build needs beside
        ``files``: ggml's own CMake makes them while it configures.
    :param hip_oldest: the HIP with which it compiles for AMD GPUs, such as (5, 5); none: any.
    :param hip_why: what older ones lack, in words that follow "because".
    :param hip_blas: why it does not compile without hipBLAS's headers, whatever is linked.
    :param recipe: for ``classic`` only.
    """

    kind: str
    version: str | None
    root: Path
    files: tuple[str, ...]
    digest: str
    layout: str
    flavors: tuple[str, ...]
    origin: str
    notes: tuple[str, ...] = ()
    watched: tuple[Path, ...] = ()
    core: tuple[str, ...] = ()
    device: tuple[str, ...] = ()
    includes: tuple[str, ...] = ()
    defines: tuple[str, ...] = ()
    nvcc_flags: tuple[str, ...] = ()
    fast_math: bool = True
    levels: tuple[int, ...] = ()
    specific: tuple[str, ...] = ()
    declared: tuple[str, ...] = ()
    markers: tuple[str, ...] = ()
    ggml_cmake: str | None = None
    ggml_version: str | None = None
    generated: tuple[tuple[str, str], ...] = ()
    hip_oldest: tuple[int, int] | None = None
    hip_why: str = ""
    hip_blas: str = ""
    recipe: ClassicRecipe | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON values for the memory of probes; folders and the user's words are left out."""
        values = dataclasses.asdict(self)
        for name in ("root", "origin", "watched"):
            del values[name]
        return values

    @classmethod
    def from_json(
        cls, values: dict[str, Any], *, root: Path, origin: str, watched: tuple[Path, ...]
    ) -> SourceTree:
        """Turn :meth:`to_json` back, with the folders of this start."""
        recipe = values["recipe"]
        known = {**values, "recipe": ClassicRecipe(**_frozen(recipe)) if recipe else None}
        return cls(**_frozen(known), root=root, origin=origin, watched=watched)


def _frozen(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: tuple(tuple(item) if isinstance(item, list) else item for item in value)
        if isinstance(value, list)
        else value
        for name, value in values.items()
    }
