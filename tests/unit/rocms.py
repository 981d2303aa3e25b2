"""A ROCm, as the toolchain room describes one."""

from __future__ import annotations

from pathlib import Path

from llamabuild.arch import hip_target
from llamabuild.toolchain import Hipblas, Rocm


def rocm(version: str, *targets: str) -> Rocm:
    """One that lacks nothing and compiles ``targets``."""
    top = Path(f"/opt/rocm-{version}")
    return Rocm(
        version=version,
        root=top,
        clang=top / "llvm/bin/clang++",
        bundler=top / "llvm/bin/clang-offload-bundler",
        llvm="18.0.0",
        found_via="PATH",
        named=False,
        targets=tuple(map(hip_target, targets)),
        without_libraries=(),
        include_dir=top / "include",
        device_libraries=top / "amdgcn/bitcode",
        device_digest="0123",
        runtime=top / "lib/libamdhip64.so",
        hipblas=Hipblas(top / "include", (top / "lib/libhipblas.so",)),
    )
