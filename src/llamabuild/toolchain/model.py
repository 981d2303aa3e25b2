"""What the search for compilers hands on: frozen values, no search."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from llamabuild.arch import CudaArch, HipTarget

__all__ = [
    "BuildTools",
    "Choice",
    "Cublas",
    "Hipblas",
    "HostCompiler",
    "Machine",
    "Rejected",
    "Rocm",
    "RocmSearch",
    "System",
    "Toolkit",
    "ToolkitSearch",
]

System: TypeAlias = Literal["linux", "macos", "windows"]


@dataclass(frozen=True)
class Machine:
    """The machine that compiles: it decides where things lie and what they are called.

    ``processor`` is ``x86_64`` or ``aarch64``; ``root`` stands before every absolute folder that
    we know by ourselves (``/usr/local/cuda``), never before one that a user names.
    """

    system: System
    processor: str
    root: Path = Path("/")

    @classmethod
    def here(cls) -> Machine:
        """The machine that runs this program."""
        system: System
        if sys.platform == "win32":
            system = "windows"
            processor = os.environ.get("PROCESSOR_ARCHITECTURE", "AMD64").lower()
        else:
            system = "macos" if sys.platform == "darwin" else "linux"
            processor = os.uname().machine
        return cls(system, {"amd64": "x86_64", "arm64": "aarch64"}.get(processor, processor))

    @property
    def multiarch(self) -> str:
        """Debian's name for the folder of this machine's libraries."""
        return f"{self.processor}-linux-gnu"

    def program(self, name: str) -> str:
        """The file name of a program."""
        return f"{name}.exe" if self.system == "windows" else name


@dataclass(frozen=True)
class Cublas:
    """cuBLAS as a toolkit brings it.

    ``library`` is the file to link: the wheels have no ``libcublas.so``, so it may be
    ``libcublas.so.13``. ``soname`` is what the finished module then needs where it runs.
    """

    version: str
    include_dir: Path
    library: Path
    soname: str


@dataclass(frozen=True)
class Toolkit:
    """A CUDA toolkit whose pieces are all there and agree with each other.

    :param version: nvcc's own, ``13.0.88``.
    :param root: the folder above ``bin``; for Debian's package ``/usr/lib/nvidia-cuda-toolkit``.
    :param nvcc: the compiler itself, behind every link and wrapper.
    :param found_via: the step of the search that found it first, ``CUDA_HOME``.
    :param named: whether the user named this very toolkit (``--toolkit`` or a variable).
    :param real: machine code it can write, in order; ``virtual``: PTX it can write.
    :param pieces: (piece, version) of everything whose version can be read.
    :param path_dirs: its folders of programs, to stand first on PATH.
    :param driver_stub: a ``libcuda.so`` (Windows: ``cuda.lib``) fit to link against, if any.
    :param gcc_max: newest major version of g++ that its headers accept; none: no limit known.
    :param clang_max: the same for clang++.
    :param msvc: the values of ``_MSC_VER`` accepted, from the first to below the second.
    :param glibc_below: its headers contradict glibc of this version and newer; empty: none known.
    :param known_problems: defects of this very version that a user should hear of.
    """

    version: str
    root: Path
    nvcc: Path
    found_via: str
    named: bool
    real: tuple[CudaArch, ...]
    virtual: tuple[CudaArch, ...]
    pieces: tuple[tuple[str, str], ...]
    path_dirs: tuple[Path, ...]
    include_dir: Path
    library_dirs: tuple[Path, ...]
    cublas: Cublas | None
    driver_stub: Path | None
    gcc_max: int | None
    clang_max: int | None
    msvc: tuple[int, int] | None
    glibc_below: str
    split_compile: bool
    compress_mode: bool
    threads: bool
    known_problems: tuple[str, ...] = ()
    backend: Literal["cuda"] = "cuda"

    @property
    def label(self) -> str:
        """How messages call it: ``CUDA 13.0.88 (/usr/local/cuda-13.0)``."""
        return f"CUDA {self.version} ({self.root})"

    @property
    def identity(self) -> str:
        """The versions that decide what it compiles to; the same wherever it is installed."""
        return "; ".join([f"cuda {self.version}", *(f"{name} {of}" for name, of in self.pieces)])

    def compiles(self, arch: CudaArch) -> bool:
        """Whether this toolkit can write code for ``arch``."""
        return arch in (self.virtual if arch.virtual else self.real)


@dataclass(frozen=True)
class Hipblas:
    """hipBLAS and the rocBLAS below it: ``libraries`` are the files to link."""

    include_dir: Path
    libraries: tuple[Path, ...]


@dataclass(frozen=True)
class Rocm:
    """A ROCm that compiles HIP: a clang, HIP's headers and runtime, and device libraries.

    :param version: HIP's own, ``5.2.21153``; its first two numbers are ROCm's.
    :param root: what clang is told as ``--rocm-path``; for Debian's packages ``/usr``.
    :param clang: ``clang++``, which is driven directly: ``hipcc`` is a script around it.
    :param bundler: clang's ``clang-offload-bundler``, which packs the code for several targets.
    :param llvm: clang's version, ``15.0.6``.
    :param found_via: the step of the search that found it first, ``ROCM_PATH``.
    :param named: whether the user named this very ROCm (``--toolkit`` or a variable).
    :param targets: what can be compiled, oldest hardware first: the device libraries have it and
        clang knows it.
    :param without_libraries: processors that clang knows and the device libraries do not.
    :param device_libraries: the folder of ``ockl.bc``.
    :param device_digest: tells one version of the device libraries from another.
    :param runtime: the ``libamdhip64.so`` to link.
    """

    version: str
    root: Path
    clang: Path
    bundler: Path
    llvm: str
    found_via: str
    named: bool
    targets: tuple[HipTarget, ...]
    without_libraries: tuple[str, ...]
    include_dir: Path
    device_libraries: Path
    device_digest: str
    runtime: Path
    hipblas: Hipblas | None
    backend: Literal["hip"] = "hip"

    @property
    def label(self) -> str:
        """How messages call it: ``HIP 5.2.21153 (/usr)``."""
        return f"HIP {self.version} ({self.root})"

    @property
    def identity(self) -> str:
        """The versions that decide what it compiles to; the same wherever it is installed."""
        return f"hip {self.version}; clang {self.llvm}; device libraries {self.device_digest}"

    @property
    def host_compiler(self) -> HostCompiler:
        """The same clang, which compiles the host's half of the code too."""
        cc = self.clang.with_name(self.clang.name.replace("clang++", "clang"))
        return HostCompiler(self.clang, cc, "clang", self.llvm, self.found_via)

    def compiles(self, target: HipTarget) -> bool:
        """Whether this ROCm can write code for ``target``, pinned to a feature or not."""
        return HipTarget(target.name) in self.targets


@dataclass(frozen=True)
class Rejected:
    """Something that looked like a toolkit and is not used: which, why, and what would mend it."""

    path: Path
    found_via: str
    reason: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.path} ({self.found_via}): {self.reason}"


@dataclass(frozen=True)
class ToolkitSearch:
    """Every toolkit of the machine, best first, and everything that was turned down.

    ``watched`` holds the files and folders that the answer depends on: while all of them keep
    their identity, the same search gives the same answer.
    """

    toolkits: tuple[Toolkit, ...]
    rejected: tuple[Rejected, ...] = ()
    warnings: tuple[str, ...] = ()
    watched: tuple[Path, ...] = ()


@dataclass(frozen=True)
class RocmSearch:
    """The same for ROCm."""

    toolkits: tuple[Rocm, ...]
    rejected: tuple[Rejected, ...] = ()
    warnings: tuple[str, ...] = ()
    watched: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Choice:
    """The toolkit for one request, those passed over for it, and what the user should hear."""

    toolkit: Toolkit
    passed_over: tuple[Rejected, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class HostCompiler:
    """The C++ compiler that nvcc calls for the host's half of the code.

    ``cc`` is the C compiler of the same make and version; ``glibc`` the version of the C library
    it compiles against (empty where there is none). ``environment`` is what MSVC's own script
    sets; its ``PATH`` holds only the folders that the script adds. ``notes`` says which compiler
    was passed over and why.
    """

    path: Path
    cc: Path
    kind: Literal["gcc", "clang", "msvc"]
    version: str
    found_via: str
    glibc: str = ""
    environment: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def major(self) -> int:
        """12 of ``12.2.0``; for MSVC the 19 of ``19.44``."""
        return int(self.version.partition(".")[0])


@dataclass(frozen=True)
class BuildTools:
    """CMake and Ninja."""

    cmake: Path
    cmake_version: str
    ninja: Path
    ninja_version: str
