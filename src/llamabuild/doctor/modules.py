"""llamafiles and GPU modules: what is there, and whether it would run here."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from llamabuild import inspect, source
from llamabuild.arch import CudaArch
from llamabuild.deliver import Llamafile, embed
from llamabuild.deliver.places import Backend
from llamabuild.deliver.staging import abandoned
from llamabuild.deliver.survey import Found, Seen, survey
from llamabuild.doctor.facts import newer
from llamabuild.doctor.model import Line
from llamabuild.doctor.surroundings import Surroundings
from llamabuild.errors import LlamabuildError, SourceError
from llamabuild.inspect import Coverage, Module
from llamabuild.probe import Gpu

__all__ = ["llamafiles", "modules", "sources", "unfinished"]

_NAMES = ("ggml-rocm", "ggml-cuda")  # in the order in which llamafile tries them
_ENDINGS = (".so", ".dll")
_BACKENDS: Mapping[str, Backend] = {"nvidia": "cuda", "amd": "rocm"}
#: A larger module takes seconds to read.
_LONGEST = 256 * 1024 * 1024


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
            yield from _judged(path, str(path), here)


def _folders(here: Surroundings) -> list[Path]:
    """Where llamafiles unpack and look, and the working folder for those run from here."""
    homes = [here.environ.get(name) for name in ("HOME", "USERPROFILE", "TMPDIR")]
    shared = [Path(home) / ".llamafile" for home in homes if home] or [here.cwd / ".llamafile"]
    own = [version for folder in shared for version in sorted((folder / "v").glob("*"))]
    return list(dict.fromkeys([*shared, *own, here.cwd]))


def llamafiles(here: Surroundings) -> Iterator[Line]:
    """Every llamafile here, and the module that it would take."""
    seen_here = survey(
        [],
        ours={},
        system=here.machine.system,
        environ=here.environ,
        cwd=here.cwd,
    )
    for seen in seen_here:
        if seen.llamafile is None:
            yield Line("note", f"{seen.path}: {seen.problem}", "llamabuild status tells more")
        elif seen.llamafile.kind != "folder":
            yield from _llamafile(seen, seen.llamafile, here)


def _llamafile(seen: Seen, llamafile: Llamafile, here: Surroundings) -> Iterator[Line]:
    name = f"{seen.path} (llamafile {llamafile.version})"
    install = f"llamabuild install {shlex.quote(str(seen.path))}"
    makers = {gpu.vendor for gpu in here.gpus} or {"nvidia", "amd"}
    taken = seen.taken([_BACKENDS[maker] for maker in makers])
    if taken is None:
        compiled = " or ".join(f"ggml-{backend}" for backend in seen.compiles)
        what = f"would compile {compiled} itself" if compiled else "has no module for a GPU"
        yield Line("note", f"{name} {what}", install)
    elif not taken.inside:
        yield Line("ok", f"{name} takes {taken.path}")
    elif taken.size_bytes > _LONGEST:
        text = f"{name} takes the {taken.inside} inside it, which is too large to be read here"
        yield Line("note", text, "llamabuild status")
    else:
        yield from _inside(taken, f"{name} takes the {taken.inside} inside it", here, install)


def _inside(taken: Found, name: str, here: Surroundings, install: str) -> Iterator[Line]:
    """Judge a module inside a llamafile, taken out for a look: readers want a file."""
    try:
        with tempfile.TemporaryDirectory(prefix="llamabuild-") as folder:
            path = Path(folder, Path(taken.inside).name)
            with path.open("wb") as file:
                embed.extract(taken.path, taken.inside, file)
            yield from _judged(path, name, here, install)
    except OSError as error:
        text = f"{name}, which cannot be taken out for a look: {error.strerror}"
        yield Line("note", text, "name a folder for temporary files in the variable TMPDIR")


def unfinished(here: Surroundings) -> Iterator[Line]:
    """What commands that were killed left beside llamafiles and modules."""
    for folder in _folders(here):
        for path in abandoned(folder):
            try:
                size = path.stat().st_size
            except FileNotFoundError:  # another command has just taken it over
                continue
            yield Line(
                "note",
                f"{path} ({size / 1e6:,.1f} MB) was left by a llamabuild that was "
                "killed before it was done",
                f"rm {shlex.quote(str(path))}, or the same command again, which takes it over",
            )


def _judged(
    path: Path, name: str, here: Surroundings, install: str = "llamabuild install LLAMAFILE"
) -> Iterator[Line]:
    """What is to be said of one module; ``install`` is the command that puts another in place."""
    if path.stat().st_size > _LONGEST:
        yield Line("note", f"{name} is too large to be read here", "llamabuild inspect tells more")
        return
    try:
        module = inspect.read_module(path)
    except LlamabuildError as error:
        reason = error.message.replace(str(path), "it")
        yield Line("trouble", f"{name}: {reason}", install)
        return
    name = f"{name} ({' '.join(module.labels) or 'no code for a GPU'})"
    cards = {gpu.arch: gpu for gpu in here.gpus if _meant_for(module, gpu)}
    if not cards:
        yield Line("ok", name)
    for arch, gpu in cards.items():
        found = inspect.coverage(module, arch)
        yield next(_verdicts(name, module, found, gpu, here, install))


def _meant_for(module: Module, gpu: Gpu) -> bool:
    return gpu.vendor == {"cuda": "nvidia", "hip": "amd", None: None}[module.backend]


def _verdicts(
    name: str, module: Module, found: Coverage, gpu: Gpu, here: Surroundings, install: str
) -> Iterator[Line]:
    """Everything to be said of a module on a GPU, the gravest first."""
    card = f"{gpu.name} ({_capability(gpu)})"
    if found.runs == "no":
        yield Line("trouble", f"{name}: nothing of it runs on {card}", install)
    if found.trapped and found.runs != "native":
        yield Line(
            "trouble",
            f"{name}: on {card}, {len(found.trapped)} of {found.kernels} kernels give up, because "
            f"the driver takes the code for {', '.join(found.entries)}",
            install,
        )
    if found.min_driver and gpu.driver and newer(found.min_driver, gpu.driver):
        yield Line(
            "trouble",
            f"{name}: needs driver {found.min_driver} or newer, and {gpu.driver} runs here",
            f"update the driver, or {install}",
        )
    if found.runs == "jit":
        yield from _compiled_by_driver(name, module, card, here, install)
    if not found.healthy or found.suspect:
        text = f"{name}: {card} may find kernels missing or giving up"
        yield Line("note", text, "llamabuild inspect tells which")
    yield Line("ok", f"{name}: runs on {card}")


def _compiled_by_driver(
    name: str, module: Module, card: str, here: Surroundings, install: str
) -> Iterator[Line]:
    made_by = max((entry.cuda for entry in module.entries if entry.cuda), default=None)
    supported = here.nvidia.driver_cuda
    if made_by and supported and made_by > supported:
        yield Line(
            "trouble",
            f"{name}: its PTX was made by CUDA {made_by[0]}.{made_by[1]}, and the driver "
            f"compiles that of CUDA {supported[0]}.{supported[1]} and older ('the provided "
            "PTX was compiled with an unsupported toolchain')",
            f"update the driver, or {install}",
        )
    yield Line(
        "note",
        f"{name}: {card} compiles it at the first start, which takes a while",
        install,
    )


def _capability(gpu: Gpu) -> str:
    return CudaArch(int(gpu.arch)).capability if gpu.vendor == "nvidia" else gpu.arch
