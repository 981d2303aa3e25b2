"""A stand-in for llamafile's start: looks for its GPU module as that release does, and loads it.

Written from what the releases do, not from the tables under test. It changes what a start
changes: sources are unpacked, a module is unpacked or compiled over the one that is there.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

COMPILED = b"compiled by llamafile"
SOURCES = (
    "llama.cpp/ggml.h",
    "llamafile/compcap.cu",
    "llamafile/llamafile.h",
    "llamafile/tinyblas.h",
    "llamafile/tinyblas.cu",
    "llama.cpp/ggml-impl.h",
    "llama.cpp/ggml-cuda.h",
    "llama.cpp/ggml-alloc.h",
    "llama.cpp/ggml-common.h",
    "llama.cpp/ggml-backend.h",
    "llama.cpp/ggml-backend-impl.h",
    "llama.cpp/ggml-cuda.cu",
)


def nvidia(path: Path) -> bool:
    """What loads on a machine with an NVIDIA card only."""
    return "rocm" not in path.name


class Start:
    """One start of a llamafile; ``loaded`` is the module's bytes, none if it found none."""

    def __init__(
        self,
        llamafile: Path,
        release: str,
        environ: Mapping[str, str],
        cwd: Path,
        *,
        nvcc: bool = False,
        loads: Callable[[Path], bool] = nvidia,
    ) -> None:
        self.number = tuple(int(part) for part in release.split("."))
        self.release, self.environ, self.cwd = release, environ, cwd
        self.nvcc, self.loads = nvcc, loads
        self.llamafile = llamafile
        with zipfile.ZipFile(llamafile) as archive:
            self.zip = {name: archive.read(name) for name in archive.namelist()}
        self.app = self._app()
        self.compiled = False
        self.loaded = self._modern() if self.number >= (0, 10) else self._classic()

    def _app(self) -> Path:
        base = self.environ.get("HOME") or "."
        if self.number < (0, 8, 2):
            base = self.environ.get("TMPDIR") or base
        own = self.cwd / base / ".llamafile"
        return own / "v" / self.release if self.number >= (0, 8, 5) else own

    def _classic(self) -> bytes | None:
        self.app.mkdir(parents=True, exist_ok=True)
        stale = [name for name in SOURCES if name in self.zip and self._differs(name)]
        for name in stale:
            self._unpack(name, self.app / Path(name).name)
        for kind in ("rocm", "cuda"):
            found = self._classic_module(kind, rebuild=bool(stale))
            if found is not None:
                return found
        return None

    def _differs(self, name: str) -> bool:
        copy = self.app / Path(name).name
        return not copy.exists() or copy.read_bytes() != self.zip[name]

    def _classic_module(self, kind: str, *, rebuild: bool) -> bytes | None:
        name = f"ggml-{kind}.so"
        module = self.app / name
        if self.number >= (0, 8, 13):
            if not module.exists() and name in self.zip:
                self._unpack(name, module)
            if self._try(module):
                return module.read_bytes()
        up_to_date = module.exists() and not _newer(self.app / "ggml-cuda.cu", module)
        if up_to_date and not rebuild:
            return module.read_bytes() if self.loads(module) else None
        if kind == "cuda" and self.nvcc:
            self.compiled = True
            module.write_bytes(COMPILED)
            return COMPILED
        if name in self.zip:
            self._unpack(name, module)
            return module.read_bytes() if self.loads(module) else None
        return None

    def _modern(self) -> bytes | None:
        kinds = ("rocm", "cuda") if self.number < (0, 10, 1) else ("cuda", "rocm")
        for kind in kinds:
            name = f"ggml-{kind}.so"
            if self.number >= (0, 10, 2) and self._try(self.llamafile.parent / name):
                return (self.llamafile.parent / name).read_bytes()
            app = self.app / name
            if name in self.zip:
                app.parent.mkdir(parents=True, exist_ok=True)
                if not app.exists() or app.read_bytes() != self.zip[name]:
                    self._unpack(name, app)
            for path in (app, *([Path(home) / name] if (home := self.environ.get("HOME")) else [])):
                if self._try(path):
                    return path.read_bytes()
        return None

    def _try(self, path: Path) -> bool:
        return path.exists() and self.loads(path)

    def _unpack(self, name: str, to: Path) -> None:
        draft = to.with_name(to.name + ".XXXXXX")
        draft.write_bytes(self.zip[name])
        draft.rename(to)


def _newer(one: Path, other: Path) -> bool:
    return one.stat().st_mtime_ns > other.stat().st_mtime_ns
