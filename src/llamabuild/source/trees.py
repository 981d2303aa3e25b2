"""Checkouts that contain ggml: where it lies, of which era it is, what can be built of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from llamabuild.errors import SourceError
from llamabuild.source import flags, scan, versions

__all__ = ["Layout", "describe", "locate", "read_all", "read_file", "unpackable"]

#: A source file longer than this is none.
_LONGEST = 64 << 20
_CMAKE = ("CMakeLists.txt", ".cmake")
_HEADERS = (".h", ".hpp", ".cuh", ".inc")


@dataclass(frozen=True)
class Layout:
    """The parts of a tree, found by looking at names only; all relative to ``root``.

    ``base`` is ggml's own top folder; ``backend_dl`` says that its CMake can build such a module.
    ``folders`` are those whose entries were looked at: a new file in one changes the answer.
    """

    root: Path
    kind: str
    core: tuple[str, ...]
    device: tuple[str, ...]
    includes: tuple[str, ...]
    base: str
    backend_dl: bool
    files: tuple[str, ...]
    folders: tuple[str, ...]


def unpackable(name: str) -> bool:
    """Whether a member of an archive can matter to any build."""
    path = PurePosixPath(name)
    return path.suffix in _tables()["suffixes"] or path.name in _tables()["names"]


def locate(root: Path, origin: str) -> Layout:
    """Find ggml and its CUDA code below ``root``.

    :raises SourceError: there is none, or it is not complete.
    """
    found = [spot for spot in _tables()["spots"] if (root / spot / "ggml.c").is_file()]
    spot = next((spot for spot in found if _cuda_folders(root / spot)), None)
    if spot is None:
        raise _nothing(root, origin, found)
    sources = root / spot
    base = sources.parent if PurePosixPath(spot).name == "src" else sources
    kind = _kind(root)
    if kind == "llamafile":
        _check_llamafile(root, sources, origin)
    layout = _survey(root, sources, base, kind)
    if not any(PurePosixPath(name).name == "ggml.h" for name in layout.files):
        raise SourceError(
            f"{origin} has ggml's sources, but not its header ggml.h",
            hint=f"give the whole checkout, perhaps {root.parent}",
        )
    return layout


def describe(layout: Layout, contents: dict[str, bytes], origin: str) -> dict[str, Any]:
    """Read off the texts what the tree needs: fields of :class:`SourceTree`.

    :param contents: of all ``layout.files``.
    :raises SourceError: the tree is older than ggml's backend interface.
    """
    device = b"\n".join(
        contents[name]
        for name in layout.files
        if name.endswith((".cu", ".cuh")) or "/vendors/" in name
    )
    core = b"\n".join(contents[name] for name in layout.core)
    cmake = b"\n".join(data for name, data in contents.items() if name.endswith(_CMAKE))
    if b"ggml_backend_cuda_init" not in device:
        raise SourceError(
            f"{origin} is older than ggml's backend interface, so nothing could load its module",
            hint="use a version from November 2023 or later",
        )
    header = next((name for name in layout.files if name.endswith("ggml-cuda.h")), None)
    markers = (
        *scan.markers("device", device),
        *scan.markers("core", core),
        *scan.markers("cmake", cmake),
    )
    ggml_version = versions.of_ggml(_cmake_text(layout.root / layout.base))
    base = flags.always(layout.kind, markers, ggml_version)
    return {
        "kind": layout.kind,
        "version": versions.of_tree(layout.root, layout.kind, ggml_version),
        "layout": "one-file" if len(layout.device) == 1 else "split",
        "flavors": ("backend-dl", "self-contained") if layout.backend_dl else ("self-contained",),
        "core": layout.core,
        "device": layout.device,
        "includes": layout.includes,
        "defines": base.defines,
        "nvcc_flags": base.nvcc,
        "levels": scan.levels(device),
        "declared": scan.declared(contents[header]) if header else (),
        "markers": markers,
        "ggml_cmake": layout.base if layout.backend_dl else None,
        "ggml_version": ggml_version,
        "generated": tuple(_generated(contents, ggml_version)),
        "hip_oldest": scan.hip_oldest(cmake),
        "hip_why": "its CMake asks for it",
    }


def _generated(contents: dict[str, bytes], version: str | None) -> Iterator[tuple[str, str]]:
    """The header that ggml's CMake makes of a template since 0.25."""
    for name, data in contents.items():
        if name.endswith("/ggml-version.h.in"):
            text = data.decode("utf-8", "replace").replace("@GGML_VERSION@", version or "unknown")
            yield name.removesuffix(".in"), text.replace("@GGML_BUILD_COMMIT@", "unknown")


def _cuda_folders(sources: Path) -> list[Path]:
    """Folders with CUDA files: beside the core until November 2024, then below it."""
    beside = [sources] if (sources / "ggml-cuda.cu").is_file() else []
    below = sources / "ggml-cuda"
    parts = [folder for folder in (below, below / "template-instances") if folder.is_dir()]
    if beside or (below / "ggml-cuda.cu").is_file():
        return [*beside, *parts]
    return []


def _survey(root: Path, sources: Path, base: Path, kind: str) -> Layout:
    """List what belongs to ggml's GPU module, and nothing else of the tree."""

    def relative(path: Path) -> str:
        return path.relative_to(root).as_posix()

    includes = [
        folder for folder in (sources, base / "include", base / "include/ggml") if folder.is_dir()
    ]
    device = [
        path
        for folder in _cuda_folders(sources)
        for path in _entries(folder)
        if path.suffix == ".cu" and (folder != sources or path.name == "ggml-cuda.cu")
    ]
    core = [sources / name for name in _tables()["core"] if (sources / name).is_file()]
    backend_dl = b"GGML_BACKEND_DL" in _cmake_text(base) and kind != "llamafile"
    folders = [*includes, *_cuda_folders(sources)]
    files = [path for folder in includes for path in _entries(folder) if _own(path)]
    for name in _tables()["folders"]:
        for path in _walk(sources / name):
            (folders if path.is_dir() else files).append(path)
    if backend_dl:
        folders.append(base / "cmake")
        files += [base / "CMakeLists.txt", base / "ggml.pc.in", sources / "CMakeLists.txt"]
        files += [path for path in _walk(base / "cmake") if path.is_file()]
    if kind == "llamafile":
        includes.insert(0, root / "llamafile")
        files += (root / "llamafile").glob("tinyblas[.-]*")
    return Layout(
        root=root,
        kind=kind,
        core=tuple(map(relative, core)),
        device=tuple(sorted(map(relative, device))),
        includes=tuple(dict.fromkeys(map(relative, includes))),
        base=relative(base),
        backend_dl=backend_dl,
        files=tuple(sorted({relative(path) for path in files if path.is_file()})),
        folders=tuple(sorted({relative(path) for path in folders})),
    )


def _cmake_text(base: Path) -> bytes:
    path = base / "CMakeLists.txt"
    return read_file(path) if path.is_file() else b""


def _own(path: Path) -> bool:
    """Whether a file beside the core is ggml's: old trees keep everything in one folder."""
    return path.name.startswith(("ggml", "gguf")) and (
        path.suffix in _HEADERS or path.suffix in (".c", ".cpp", ".cu", ".in")
    )


def _entries(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return sorted(Path(entry.path) for entry in entries if entry.is_file())


def _walk(folder: Path) -> Iterator[Path]:
    """Everything a build can read below ``folder``, which need not exist; folders included."""
    if not folder.is_dir():
        return
    yield folder
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(Path(entry.path))
            elif unpackable(entry.name):
                yield Path(entry.path)


def _kind(root: Path) -> str:
    for entry in _tables()["kind"]:
        if any((root / name).is_file() for name in entry["files"]):
            return str(entry["name"])
    return "ggml"


def _check_llamafile(root: Path, sources: Path, origin: str) -> None:
    """Llamafile patches the llama.cpp that it checks out: the host loads no other."""
    texts = [sources / "ggml-cuda/vendors/cuda.h", sources / "ggml-cuda.cu"]
    patched = any(b"GGML_USE_TINYBLAS" in read_file(path) for path in texts if path.is_file())
    if not patched or not (root / "llamafile/tinyblas.cu").is_file():
        raise SourceError(
            f"the llama.cpp in {origin} does not have llamafile's patches yet",
            hint="run `make setup` in that checkout, then try again",
        )


def _nothing(root: Path, origin: str, found: list[str]) -> SourceError:
    """Explain what is missing, as exactly as the folder allows."""
    if found:
        return SourceError(
            f"{origin} has ggml in its folder {found[0]}, but not its CUDA code (ggml-cuda.cu)",
            hint="get a complete checkout, or unpack the whole archive",
        )
    empty = [root / name for name in ("ggml", "vendor/llama.cpp", "llama.cpp")]
    for folder in empty:
        if folder.is_dir() and not any(folder.iterdir()):
            return SourceError(
                f"{folder} is empty: its submodule was not checked out",
                hint="run `git submodule update --init --recursive` there (llamafile: make setup)",
            )
    return SourceError(
        f"there are no CUDA sources of ggml in {origin}",
        hint="give the top folder of a llama.cpp, ggml, whisper.cpp or llamafile checkout",
    )


def read_file(path: Path) -> bytes:
    """Contents of a source file.

    :raises SourceError: it cannot be read, or is too long for one.
    """
    try:
        if path.stat().st_size > _LONGEST:
            raise SourceError(f"{path} is longer than any source file")
        return path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror or error}") from error


def read_all(layout: Layout) -> dict[str, bytes]:
    """Return the contents of all files of a layout.

    :raises SourceError: one of them cannot be read.
    """
    return {name: read_file(layout.root / name) for name in layout.files}


@cache
def _tables() -> dict[str, Any]:
    import tomllib

    return tomllib.loads(Path(__file__).with_name("trees.toml").read_text("utf-8"))
