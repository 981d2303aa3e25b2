"""llamafiles and GPU modules: what is there, and whether it would run here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from llamabuild import inspect, source
from llamabuild.arch import CudaArch
from llamabuild.doctor.facts import newer
from llamabuild.doctor.model import Line
from llamabuild.doctor.surroundings import Surroundings
from llamabuild.errors import LlamabuildError, SourceError
from llamabuild.inspect import Coverage, Module
from llamabuild.probe import Gpu

__all__ = ["modules", "sources"]

_NAMES = ("ggml-rocm", "ggml-cuda")  # in the order in which llamafile tries them
_ENDINGS = (".so", ".dll")
#: A larger module takes seconds to read.
_LONGEST = 256 * 1024 * 1024
_INSTALL = "llamabuild install LLAMAFILE"


def sources(here: Surroundings) -> Iterator[Line]:
    """What would be compiled if nothing is named."""
    try:
        found = source.find_source(here.environ, here.cwd)
    except SourceError as error:
        yield Line("note", error.message, error.hint)
    else:
        yield Line("ok", f"without --source, {found.spec} would be compiled: {found.reason}")


def modules(here: Surroundings) -> Iterator[Line]:
    """Every module in the folders where llamafiles look."""
    for folder in _folders(here):
        present = [
            path
            for name in _NAMES
            for ending in _ENDINGS
            if (path := folder / f"{name}{ending}").is_file()
        ]
        if len(present) > 1:
            yield Line(
                "note",
                f"{folder} holds {' and '.join(path.name for path in present)}: most llamafiles "
                f"take {present[0].name}",
                f"remove the one that is not for this GPU, for example rm '{present[0]}'",
            )
        for path in present:
            yield from _judged(path, here)


def _folders(here: Surroundings) -> list[Path]:
    """Where llamafiles unpack and look, and the working folder for those run from here."""
    homes = [here.environ.get(name) for name in ("HOME", "USERPROFILE", "TMPDIR")]
    shared = [Path(home) / ".llamafile" for home in homes if home] or [here.cwd / ".llamafile"]
    own = [version for folder in shared for version in sorted((folder / "v").glob("*"))]
    return list(dict.fromkeys([*shared, *own, here.cwd]))


def _judged(path: Path, here: Surroundings) -> Iterator[Line]:
    if path.stat().st_size > _LONGEST:
        yield Line("note", f"{path} is too large to be read here", f"llamabuild inspect '{path}'")
        return
    try:
        module = inspect.read_module(path)
    except LlamabuildError as error:
        yield Line("trouble", error.message, _INSTALL)
        return
    labels = f"{path}: {' '.join(module.labels) or 'no code for a GPU'}"
    cards = {gpu.arch: gpu for gpu in here.gpus if _meant_for(module, gpu)}
    if not cards:
        yield Line("ok", labels)
    for arch, gpu in cards.items():
        yield next(_verdicts(path, module, inspect.coverage(module, arch), gpu, here))


def _meant_for(module: Module, gpu: Gpu) -> bool:
    return gpu.vendor == {"cuda": "nvidia", "hip": "amd", None: None}[module.backend]


def _verdicts(
    path: Path, module: Module, found: Coverage, gpu: Gpu, here: Surroundings
) -> Iterator[Line]:
    """Everything to be said of a module on a GPU, the gravest first."""
    name = f"{gpu.name} ({_capability(gpu)})"
    labels = f"{path} ({' '.join(module.labels)})"
    if found.runs == "no":
        yield Line("trouble", f"{labels}: nothing of it runs on {name}", _INSTALL)
    if found.trapped and found.runs != "native":
        yield Line(
            "trouble",
            f"{labels}: on {name}, {len(found.trapped)} of {found.kernels} kernels give up, "
            f"because the driver takes the code for {', '.join(found.entries)}",
            _INSTALL,
        )
    if found.min_driver and gpu.driver and newer(found.min_driver, gpu.driver):
        yield Line(
            "trouble",
            f"{labels}: needs driver {found.min_driver} or newer, and {gpu.driver} runs here",
            f"update the driver, or {_INSTALL}",
        )
    if found.runs == "jit":
        yield from _compiled_by_driver(labels, module, name, here)
    if not found.healthy or found.suspect:
        text = f"{labels}: {name} may find kernels missing or giving up"
        yield Line("note", text, f"llamabuild inspect '{path}'")
    yield Line("ok", f"{labels}: runs on {name}")


def _compiled_by_driver(
    labels: str, module: Module, name: str, here: Surroundings
) -> Iterator[Line]:
    made_by = max((entry.cuda for entry in module.entries if entry.cuda), default=None)
    supported = here.nvidia.driver_cuda
    if made_by and supported and made_by > supported:
        yield Line(
            "trouble",
            f"{labels}: its PTX was made by CUDA {made_by[0]}.{made_by[1]}, and the driver "
            f"compiles that of CUDA {supported[0]}.{supported[1]} and older ('the provided "
            "PTX was compiled with an unsupported toolchain')",
            f"update the driver, or {_INSTALL}",
        )
    yield Line(
        "note",
        f"{labels}: {name} compiles it at the first start, which takes a while",
        _INSTALL,
    )


def _capability(gpu: Gpu) -> str:
    return CudaArch(int(gpu.arch)).capability if gpu.vendor == "nvidia" else gpu.arch
