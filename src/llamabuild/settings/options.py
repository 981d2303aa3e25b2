"""Every option, declared once: its flag, its environment variables, its default and its words.

The fields of :class:`Request` are the declarations. The command line, the Python API and
``docs/reference.md`` read them as :data:`OPTIONS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, Literal, TypedDict

from llamabuild.settings.commands import COMMANDS

__all__ = ["OPTIONS", "Option", "Options", "Request"]


@dataclass(frozen=True)
class Option:
    """One option.

    A ``flag`` is set by naming it, a ``switch`` has a ``--no-`` form as well, a ``count`` counts
    how often it is named, and a ``list`` may be repeated. ``variables`` are read in order when
    the command line is silent, with ``--backend hip`` ``hip_variables`` in their place where there
    are any; ``default`` counts when they are, too.
    No number is below ``least``. ``spelling`` is the flag where it is not made of the name.
    """

    name: str
    kind: Literal["text", "number", "list", "flag", "switch", "count"]
    default: Any
    help: str
    commands: frozenset[str]
    group: str
    letter: str = ""
    metavar: str = ""
    choices: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()
    hip_variables: tuple[str, ...] = ()
    least: int = 1
    spelling: str = ""

    @property
    def flag(self) -> str:
        """The long spelling on the command line: ``--force-mmq``, ``--define`` for ``defines``."""
        if self.spelling:
            return self.spelling
        return "--" + self.name.removesuffix("s" if self.kind == "list" else "").replace("_", "-")


def _option(kind: str, default: Any, words: str, **more: Any) -> Any:
    """Make a field of :class:`Request` that holds the makings of an :class:`Option`."""
    return field(default=default, metadata={"kind": kind, "help": words, **more})


_BUILD_ONLY = frozenset({"build"})
_BUILD = _BUILD_ONLY | {"plan"}
_INSTALL_ONLY = frozenset({"install"})
_ROLLBACK_ONLY = frozenset({"rollback"})
_EMBED_ONLY = frozenset({"embed"})
_BUILDING = _BUILD | _INSTALL_ONLY
_DELIVERING = _INSTALL_ONLY | _EMBED_ONLY | _ROLLBACK_ONLY | {"status"}
_CACHE_ONLY = frozenset({"cache"})
_INSPECT_ONLY = frozenset({"inspect"})
_VERIFY_ONLY = frozenset({"verify"})
_BENCH_ONLY = frozenset({"bench"})
_DOCTOR_ONLY = frozenset({"doctor"})
_ADVISE_ONLY = frozenset({"advise"})
_ENV_ONLY = frozenset({"env"})
_RUN_ONLY = frozenset({"run"})
_ALL = frozenset(COMMANDS)

_what = partial(_option, group="what to build", commands=_BUILDING)
_code = partial(_option, group="code", commands=_BUILDING)
_tools = partial(_option, group="tools", commands=_BUILDING)
_result = partial(_option, group="result", commands=_BUILD_ONLY)
_delivery = partial(_option, group="delivery", commands=_DELIVERING)
_view = partial(_option, group="view", commands=_INSPECT_ONLY)
_trial = partial(_option, group="trial", commands=_VERIFY_ONLY | _BENCH_ONLY)
_launch = partial(_option, group="environment", commands=_ENV_ONLY)
_pruning = partial(_option, group="pruning", commands=_CACHE_ONLY)
_advice = partial(_option, group="advice", commands=_ADVISE_ONLY)
_doctor = partial(_option, group="report", commands=_DOCTOR_ONLY)
_common = partial(_option, group="common", commands=_ALL)


@dataclass(frozen=True)
class Request:
    """What the user wants, whichever way it was said; None leaves it to the source or toolkit."""

    backend: str | None = _what(
        "text",
        None,
        "whose GPUs: NVIDIA's (cuda) or AMD's (hip); by default those of the architectures or of "
        "the module, else those that are here: NVIDIA's first to build for, AMD's first to set up",
        commands=_BUILDING | _ENV_ONLY | _RUN_ONLY,
        choices=("cuda", "hip"),
        variables=("LLAMABUILD_BACKEND",),
    )
    arch: str = _what(
        "text",
        "native",
        "architectures to compile for: native, auto, all, all-major, or a list such as "
        "'61,75,8.9+PTX,90a', 'sm_89', 'rtx 4090' or 'gfx1030,gfx90a:xnack-'",
        metavar="LIST",
        variables=("LLAMABUILD_ARCH", "CUDAARCHS", "TORCH_CUDA_ARCH_LIST"),
        hip_variables=("LLAMABUILD_ARCH", "PYTORCH_ROCM_ARCH"),
    )
    source: str | None = _what(
        "text",
        None,
        "a llamafile, its folder, a llama.cpp, ggml or whisper.cpp tree or archive, "
        "llamafile:VERSION, or pypi:NAME==VERSION; by default a llamafile that is found here or "
        "in ~/.llamafile, else bundled: our own kernels",
        commands=_BUILDING | _VERIFY_ONLY,
        metavar="SOURCE",
        variables=("LLAMABUILD_SOURCE",),
    )
    source_mirror: str | None = _what(
        "text",
        None,
        "a folder or an address with copies of the repositories llamafile.git and llama.cpp.git, "
        "for llamafile:VERSION without the internet",
        commands=_BUILDING | _VERIFY_ONLY,
        metavar="URL|DIR",
        variables=("LLAMABUILD_SOURCE_MIRROR",),
    )
    flavor: str | None = _what(
        "text",
        None,
        "how the module is loaded; by default what the source is made for",
        choices=("classic", "self-contained", "backend-dl", "bundled"),
    )
    per_arch: bool = _what(
        "flag",
        False,
        "one thin module per architecture, each cached by itself",
        commands=_BUILD,
    )
    literal: bool = _what(
        "flag",
        False,
        "take all-major as nvcc means it, without the architectures at which the source switches "
        "to other code",
    )
    force_mmq: bool = _code(
        "switch",
        False,
        "multiply quantized matrices with the integer kernels at every size (GGML_CUDA_FORCE_MMQ)",
        variables=("LLAMABUILD_FORCE_MMQ",),
    )
    force_cublas: bool = _code(
        "flag",
        False,
        "multiply quantized matrices with cuBLAS or hipBLAS instead (GGML_CUDA_FORCE_CUBLAS)",
    )
    blas: str | None = _code(
        "text",
        None,
        "matrix library for unquantized products, where cublas is hipBLAS on AMD; by default "
        "tinyBLAS where the source has it",
        choices=("tiny", "cublas"),
    )
    no_iq: bool = _code("flag", False, "leave the IQ quantizations out")
    fa: str = _code(
        "text",
        "default",
        "flash attention: none, the source's usual kernels, or every K/V type",
        choices=("off", "default", "all"),
    )
    fast_math: bool | None = _code(
        "switch",
        None,
        "approximate divisions and square roots; by default as the source's own build does",
    )
    defines: tuple[str, ...] = _code(
        "list",
        (),
        "a preprocessor definition for every file; may be repeated",
        letter="-D",
        metavar="NAME[=VALUE]",
    )
    nvcc_flags: tuple[str, ...] = _code(
        "list",
        (),
        "a further argument for nvcc (with --backend hip for clang), written "
        "--nvcc-flag=-lineinfo; may be repeated",
        metavar="FLAG",
    )
    toolkit: str | None = _tools(
        "text",
        None,
        "the CUDA toolkit or the ROCm to use: its folder or its version",
        metavar="PATH|VERSION",
        variables=("LLAMABUILD_TOOLKIT",),
    )
    host_compiler: str | None = _tools(
        "text",
        None,
        "the C++ compiler that nvcc drives",
        metavar="PATH",
        variables=("LLAMABUILD_HOST_COMPILER",),
    )
    cxx_runtime: str = _tools(
        "text",
        "static",
        "link the C++ runtime into the module, or expect it where the module runs",
        choices=("static", "shared"),
    )
    compress: str | None = _tools(
        "text",
        None,
        "compression of the device code; by default the toolkit's own",
        choices=("none", "speed", "balance", "size"),
    )
    jobs: int | None = _tools(
        "number",
        None,
        "compilers at once; by default what cores and memory allow",
        letter="-j",
        metavar="N",
        variables=("MAX_JOBS", "CMAKE_BUILD_PARALLEL_LEVEL"),
    )
    output: str | None = _result(
        "text",
        None,
        "also copy the module to this file or folder; embed: write the changed llamafile there, "
        "and leave the one that was named alone",
        commands=_BUILD_ONLY | _EMBED_ONLY,
        letter="-o",
        metavar="PATH",
    )
    require_gpus: tuple[str, ...] = _result(
        "list",
        (),
        "fail unless every kernel of the module would run on this GPU: 'gtx 1080' or 6.1",
        metavar="GPU",
    )
    rebuild: bool = _result(
        "flag",
        False,
        "compile even if the cache has the answer",
        commands=_BUILD_ONLY | _INSTALL_ONLY,
    )
    dry_run: bool = _result(
        "flag",
        False,
        "show what would be done: compile nothing, change nothing",
        commands=_BUILD_ONLY | _INSTALL_ONLY | _EMBED_ONLY | _ROLLBACK_ONLY,
    )
    for_gpus: tuple[str, ...] = _delivery(
        "list",
        (),
        "the GPU that the module is for, where it is not in this machine: 'gtx 1080' or 6.1",
        commands=_INSTALL_ONLY | {"status"},
        metavar="GPU",
        spelling="--for",
    )
    given_module: str | None = _delivery(
        "text",
        None,
        "the module to install, or the one that the program will load: a file, or a cached "
        "module's key or its beginning",
        commands=_INSTALL_ONLY | _RUN_ONLY,
        metavar="FILE|KEY",
        spelling="--module",
    )
    embed: bool = _delivery(
        "flag",
        False,
        "put the module into the llamafile itself",
        commands=_INSTALL_ONLY,
    )
    remove: bool = _delivery(
        "flag",
        False,
        "take the module out instead of putting one in",
        commands=_EMBED_ONLY,
    )
    inner_name: str | None = _delivery(
        "text",
        None,
        "the module's name inside the llamafile; by default its file's: ggml-cuda.so",
        commands=_EMBED_ONLY,
        metavar="NAME",
        spelling="--name",
    )
    verify: bool = _delivery(
        "switch",
        True,
        "multiply with the module on this machine's GPU, and install none that fails",
        commands=_INSTALL_ONLY,
    )
    llamafile_version: str | None = _delivery(
        "text",
        None,
        "the llamafile's release, where its contents leave a choice",
        metavar="VERSION",
    )
    list_changes: bool = _delivery(
        "flag",
        False,
        "show every change and the modules that were there",
        commands=_ROLLBACK_ONLY,
        spelling="--list",
    )
    to: str | None = _delivery(
        "text",
        None,
        "go back to before change N, or to the module with this digest (its beginning will do)",
        commands=_ROLLBACK_ONLY,
        metavar="N|DIGEST",
    )
    backup_dir: str | None = _delivery(
        "text",
        None,
        "where replaced modules are kept; by default in the user's data folder",
        metavar="DIR",
        variables=("LLAMABUILD_BACKUP_DIR",),
    )
    device: int = _trial(
        "number", 0, "which GPU, counted from 0 as programs see them", metavar="N", least=0
    )
    types: str | None = _trial(
        "text", None, "these types alone: 'q4_0,q4_K'; by default all", metavar="LIST"
    )
    time_limit: int = _trial(
        "number",
        600,
        "seconds after which a program that runs the module is ended",
        metavar="SECONDS",
    )
    columns: str = _trial(
        "text",
        "1,8,512",
        "numbers of columns of activations (n)",
        commands=_BENCH_ONLY,
        metavar="LIST",
    )
    shapes: str = _trial(
        "text",
        "4096x14336",
        "rows and columns of the weights (m, k): '4096x14336,14336x4096'",
        commands=_BENCH_ONLY,
        metavar="LIST",
    )
    shell: str | None = _launch(
        "text",
        None,
        "who is to read the settings; docker stands for arguments of docker run; by default sh, "
        "or powershell on Windows",
        choices=("sh", "fish", "powershell", "docker"),
    )
    older_than: str | None = _pruning(
        "text", None, "prune what was not used for this long: 12h, 30d", metavar="AGE"
    )
    max_size: str | None = _pruning(
        "text",
        None,
        "prune the least recently used until the cache is no larger: 500M, 2G",
        metavar="SIZE",
    )
    gpus: tuple[str, ...] = _view(
        "list",
        (),
        "speak of this GPU: a name or a compute capability, 'gtx 1080' or 6.1; for advise with its "
        "memory, 'rtx 3080 10GB'",
        commands=_INSPECT_ONLY | _ADVISE_ONLY,
        metavar="GPU",
    )
    kernels: str | None = _view(
        "text",
        None,
        "list the kernels whose readable name holds this ('*' and '?' as in a shell)",
        metavar="PATTERN",
    )
    html: str | None = _view(
        "text",
        None,
        "write a page that needs no network: GPUs against families of kernels",
        metavar="FILE",
    )
    context: int | None = _advice(
        "number",
        None,
        "the length of the context, in tokens; by default 8192, or what the model was made for",
        metavar="TOKENS",
    )
    measure: bool = _advice(
        "flag",
        False,
        "build our own kernels for the GPU that is here, with integers alone and without, and time "
        "them",
    )
    strict: bool = _doctor("flag", False, "exit with 7 when the report shows trouble")
    cache_dir: str | None = _common(
        "text",
        None,
        "the cache folder; by default the platform's",
        commands=_BUILD
        | _DELIVERING
        | _CACHE_ONLY
        | _VERIFY_ONLY
        | _BENCH_ONLY
        | _ENV_ONLY
        | _RUN_ONLY
        | _DOCTOR_ONLY,
        metavar="DIR",
        variables=("LLAMABUILD_CACHE_DIR",),
    )
    json: bool = _common(
        "flag", False, "print one JSON document on stdout", commands=_ALL - _RUN_ONLY
    )
    verbose: int = _common(
        "count",
        0,
        "tell more: what was tried, rejected and why, and every compiler line",
        letter="-v",
    )
    quiet: bool = _common(
        "flag", False, "say nothing but results, warnings and errors", letter="-q"
    )
    origins: Mapping[str, str] = field(default_factory=dict, compare=False)

    def origin(self, name: str) -> str:
        """Where a value came from: ``--arch``, ``CUDAARCHS`` or ``default``."""
        return self.origins.get(name, "default")


OPTIONS: tuple[Option, ...] = tuple(
    Option(name=entry.name, default=entry.default, **entry.metadata)
    for entry in fields(Request)
    if entry.metadata
)


class Options(TypedDict, total=False):
    """The keyword arguments of the Python API: what is not said is decided as in a request."""

    backend: str
    source_mirror: str
    flavor: str
    per_arch: bool
    literal: bool
    force_mmq: bool
    force_cublas: bool
    blas: str
    no_iq: bool
    fa: str
    fast_math: bool
    defines: Sequence[str]
    nvcc_flags: Sequence[str]
    toolkit: str
    host_compiler: str
    cxx_runtime: str
    compress: str
    jobs: int
    output: str
    require_gpus: Sequence[str]
    rebuild: bool
    cache_dir: str
