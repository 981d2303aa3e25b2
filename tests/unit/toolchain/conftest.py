"""A machine in a folder: fake toolkits and compilers, made of small shell scripts."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from llamabuild.arch import CudaArch
from llamabuild.memo import Memo
from llamabuild.toolchain import (
    Cublas,
    Machine,
    RocmSearch,
    Toolkit,
    ToolkitSearch,
    find_cuda,
    find_rocm,
)

TOOLS = ("nvcc", "cudafe++", "cicc", "ptxas", "fatbinary", "nvlink")


def script(path: Path, *lines: str) -> Path:
    """Write a shell script that uses nothing but the shell's own commands."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]), "utf-8")
    path.chmod(0o755)
    return path


def says(*lines: str) -> str:
    """A shell command that prints ``lines``."""
    return "printf '%s\\n' " + " ".join(shlex.quote(line) for line in lines)


class Sandbox:
    """A fake machine. ``started`` tells every fake program that was started, by its name."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self.root.mkdir()
        self.log = folder / "started.log"
        self.memo = Memo(folder / "memo")
        self.environ: dict[str, str] = {"PATH": str(self.root / "empty")}
        self.machine = Machine("linux", "x86_64", self.root)
        self.python_path: list[Path] = []

    @property
    def started(self) -> list[str]:
        return self.log.read_text("utf-8").splitlines() if self.log.exists() else []

    def program(self, path: Path, *lines: str) -> Path:
        return script(path, f"echo {path.name} >> '{self.log}'", *lines)

    def find(self, explicit: str | None = None) -> ToolkitSearch:
        return find_cuda(
            self.environ,
            explicit=explicit,
            memo=self.memo,
            machine=self.machine,
            python_path=self.python_path,
        )

    def find_rocm(self, explicit: str | None = None) -> RocmSearch:
        return find_rocm(
            self.environ,
            explicit=explicit,
            memo=self.memo,
            machine=self.machine,
            python_path=self.python_path,
        )

    def rocm(
        self,
        top: Path,
        version: str = "6.2.41134",
        *,
        clang: str = "llvm/bin/clang++",
        llvm: str = "18.0.0",
        processors: Iterable[str] = ("gfx600", "gfx906", "gfx1030", "gfx1100"),
        devices: str = "amdgcn/bitcode",
        built_for: Iterable[str] = ("600", "906", "1030"),
        trouble: str = "",
        omit: Iterable[str] = (),
        hipblas: bool = False,
    ) -> Path:
        """Install a ROCm below ``top`` and return its clang++.

        ``trouble`` is what its clang prints of every HIP source.
        """
        major, minor, patch = version.split(".")
        lines = [
            f"#define HIP_VERSION_{part} {number}"
            for part, number in (("MAJOR", major), ("MINOR", minor), ("PATCH", patch))
        ]
        self.file(top / "include/hip/hip_runtime.h", omit)
        self.file(top / "include/hip/hip_version.h", omit, "\n".join(lines))
        libraries = "lib/x86_64-linux-gnu" if top.name == "usr" else "lib"
        self.file(top / libraries / "libamdhip64.so", omit)
        for name in ("ockl.bc", "ocml.bc", *(f"oclc_isa_version_{one}.bc" for one in built_for)):
            self.file(top / devices / name, omit, f"{name} of {version}")
        if hipblas:
            for name in ("include/hipblas/hipblas.h", "include/rocblas/rocblas.h"):
                self.file(top / name)
            for name in ("libhipblas.so", "librocblas.so"):
                self.file(top / libraries / name)
        if "clang++" not in omit:
            self.clang(top / clang, llvm, processors, trouble)
        return top / clang

    def clang(self, path: Path, llvm: str, processors: Iterable[str], trouble: str = "") -> None:
        bundler = path.with_name("clang-offload-bundler")
        self.program(bundler)
        self.program(
            path,
            'test "$HIP_PLATFORM" = amd || exit 9',
            'test -z "$CCC_OVERRIDE_OPTIONS$HIP_PATH$ROCM_PATH" || exit 9',
            'case "$*" in',
            "--version) " + says(f"AMD clang version {llvm} (roc)") + ";;",
            f"-print-resource-dir) {says(str(path.parents[1] / 'lib/clang' / llvm[:2]))};;",
            f"-print-prog-name=clang-offload-bundler) {says(str(bundler))};;",
            "--print-supported-cpus*) "
            + says("Available CPUs for this target:", *(f"\t{one}" for one in processors))
            + ">&2;;",
            f"*--cuda-device-only*) {says(trouble)} >&2; exit {int(bool(trouble))};;",
            "*) exit 8;;",
            "esac",
        )

    def toolkit(
        self,
        top: Path,
        version: str = "13.0.88",
        codes: Iterable[str] = ("75", "80", "90", "90a", "120"),
        *,
        pieces: Mapping[str, str] | None = None,
        omit: Iterable[str] = (),
        target: str = "",
        gcc_max: int = 15,
        cublas: bool = False,
    ) -> Path:
        """Install a toolkit below ``top`` and return its nvcc.

        ``pieces`` gives some of them another version, ``omit`` leaves some out.
        """
        bin_dir = top / "bin"
        versions = dict.fromkeys((*TOOLS, "cudart"), version) | dict(pieces or {})
        for tool in TOOLS:
            folder = top / "nvvm" / "bin" if tool == "cicc" else bin_dir
            if tool not in omit:
                self.tool(folder / self.machine.program(tool), tool, versions[tool], codes)
        (bin_dir / "nvcc.profile").write_text("TOP = $(_HERE_)/..\n")
        inside = top / "targets" / target if target else top
        self.headers(inside / "include", versions["cudart"], gcc_max, omit)
        self.file(inside / "lib" / "libcudart_static.a", omit)
        self.file(top / "nvvm" / "libdevice" / "libdevice.10.bc", omit)
        if cublas:
            self.cublas(inside / "include", inside / "lib")
        return bin_dir / self.machine.program("nvcc")

    def debian_toolkit(self, version: str = "11.8.89") -> Path:
        """Install a toolkit the way Debian's package does, wrapper and all."""
        home = self.root / "usr/lib/nvidia-cuda-toolkit/bin"
        for tool in TOOLS:
            own = tool in ("nvcc", "cicc")
            folder = home if own else self.root / "usr/bin"
            self.tool(folder / tool, tool, version, ("35", "61", "90"))
        (home / "nvcc.profile").write_text("")
        self.program(self.root / "usr/bin/nvcc", f'exec "{home}/nvcc" "$@"')
        self.headers(self.root / "usr/include", version, gcc_max=11)
        self.file(self.root / "usr/lib/x86_64-linux-gnu/libcudart_static.a")
        self.file(home.parent / "libdevice" / "libdevice.10.bc")
        return home / "nvcc"

    def tool(self, path: Path, tool: str, version: str, codes: Iterable[str]) -> None:
        major, minor, _ = version.split(".")
        signature = f"Cuda compilation tools, release {major}.{minor}, V{version}"
        if tool == "cicc":
            lines = [says("//", f"// {signature}", ".version 9.0")]
        elif tool == "nvcc":
            allowed = ",".join(f"'sm_{code}','compute_{code}'" for code in codes)
            lines = [
                'test -z "$NVCC_PREPEND_FLAGS$NVCC_APPEND_FLAGS" || exit 9',
                'case "$1" in',
                "--version) " + says(signature) + ";;",
                "--dryrun) " + says(f"#$ _HERE_={path.parent}") + ";;",
                "--help) " + says(*HELP, f"Allowed values for this option: {allowed}.") + ";;",
                "esac",
            ]
        else:
            lines = [says(signature)]
        self.program(path, *lines)

    def headers(self, folder: Path, version: str, gcc_max: int, omit: Iterable[str] = ()) -> None:
        major, minor, _ = version.split(".")
        number = int(major) * 1000 + int(minor) * 10
        self.file(folder / "cuda_runtime.h", omit)
        self.file(folder / "cuda_runtime_api.h", omit, f"#define CUDART_VERSION  {number}\n")
        self.file(folder / "crt" / "host_config.h", omit, f"#if __GNUC__ > {gcc_max}\n#endif\n")

    def cublas(self, include: Path, lib: Path, *, link_name: bool = True) -> None:
        self.file(include / "cublas_v2.h")
        self.file(
            include / "cublas_api.h",
            text="\n".join(
                f"#define CUBLAS_VER_{part} {number}"
                for part, number in (("MAJOR", 13), ("MINOR", 0), ("PATCH", 2))
            ),
        )
        self.file(lib / "libcublas.so.13")
        if link_name:
            (lib / "libcublas.so").symlink_to("libcublas.so.13")

    def compiler(
        self, path: Path, version: str, *, kind: str = "gcc", glibc: str = "2.36", extra: str = ""
    ) -> Path:
        """Install a C++ compiler that tells its macros, and its C compiler beside it."""
        major, minor, patch = version.split(".")
        macros = [
            "#define __GNUC__ 4" if kind == "clang" else f"#define __GNUC__ {major}",
            f"#define __GNUC_MINOR__ {minor}",
            f"#define __GNUC_PATCHLEVEL__ {patch}",
            '#define __VERSION__ "' + version + '"',
        ]
        if kind == "clang":
            macros += [
                f"#define __clang_major__ {major}",
                f"#define __clang_minor__ {minor}",
                f"#define __clang_patchlevel__ {patch}",
            ]
        if glibc:
            above, below = glibc.split(".")
            macros += [f"#define __GLIBC__ {above}", f"#define __GLIBC_MINOR__ {below}"]
        self.program(path, says(*macros, *([extra] if extra else [])))
        for ending, c in (("clang++", "clang"), ("g++", "gcc"), ("c++", "cc")):
            if ending in path.name:
                return script(path.with_name(path.name.replace(ending, c))) and path
        return path

    @staticmethod
    def file(path: Path, omit: Iterable[str] = (), text: str = "") -> None:
        if path.name not in omit:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)


#: What matters of nvcc's own help, up to the values that are allowed for --gpu-code.
HELP = (
    "--split-compile <number>                 (-split-compile)",
    "--threads <number>                       (-t)",
    "--gpu-architecture <arch>                (-arch)",
    "        Allowed values for this option: 'all','sm_99'.",
    "--gpu-code <code>,...                    (-code)",
)


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    return Sandbox(tmp_path)


def make_toolkit(
    version: str,
    codes: Iterable[int],
    *,
    cublas: bool = False,
    named: bool = False,
    found_via: str = "PATH",
    gcc_max: int | None = None,
    clang_max: int | None = None,
    msvc: tuple[int, int] | None = None,
    glibc_below: str = "",
    known_problems: tuple[str, ...] = (),
) -> Toolkit:
    """A toolkit as a value, for those who only choose."""
    root = Path(f"/opt/cuda-{version}")
    codes = sorted(codes)
    return Toolkit(
        version=version,
        root=root,
        nvcc=root / "bin/nvcc",
        found_via=found_via,
        named=named,
        real=tuple(CudaArch(code) for code in codes),
        virtual=tuple(CudaArch(code, virtual=True) for code in codes),
        pieces=(("nvcc", version),),
        path_dirs=(root / "bin",),
        include_dir=root / "include",
        library_dirs=(root / "lib64",),
        cublas=Cublas("1", root, root / "libcublas.so", "libcublas.so.1") if cublas else None,
        driver_stub=None,
        gcc_max=gcc_max,
        clang_max=clang_max,
        msvc=msvc,
        glibc_below=glibc_below,
        split_compile=False,
        compress_mode=False,
        threads=False,
        known_problems=known_problems,
    )
