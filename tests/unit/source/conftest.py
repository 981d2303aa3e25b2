"""Sources of every kind in small: the shapes are real, the texts are not."""

from __future__ import annotations

import io
import os
import struct
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from llamabuild.memo import Memo
from llamabuild.source import SourceTree, open_source

#: What llamafile 0.8.1 has in its ggml-cuda.cu, as far as anybody looks at it.
DEVICE = b"""
#ifdef GGML_USE_TINYBLAS
#include "tinyblas.cu"
#else
#include "rocblas/rocblas.h"
#endif
#include "ggml-cuda.h"
#include "ggml.h"
#include "ggml-common.h"
#define MIN_CC_DP4A   610 // for __dp4a
#define CC_VOLTA      700
#define CC_OFFSET_AMD 1000000
#define CC_RDNA2      (CC_OFFSET_AMD + 1030)
#if !defined(GGML_CUDA_FORCE_MMQ)
#define CUDA_USE_TENSOR_CORES
#endif
#if defined(GGML_CUDA_NO_PEER_COPY)
#endif
bool ggml_cuda_link(const struct ggml_backend_api *api) { return api; }
ggml_backend_t ggml_backend_cuda_init(int device) { return 0; }
int ggml_backend_cuda_reg_devices(void) { return 0; }
bool ggml_backend_cuda_register_host_buffer(void *buffer, size_t size) { return false; }
static __device__ float vec_dot_q8_0_q8_1_impl() {
#if __CUDA_ARCH__ >= MIN_CC_DP4A // lowest compute capability for integer intrinsics
#endif
#if __CUDA_ARCH__ < CC_VOLTA || 750 <= __CUDA_ARCH__
#endif
}
"""

CLASSIC: dict[str, bytes] = {
    "llama.cpp/ggml.h": b'#include "llamafile.h"\n',
    "llamafile/compcap.cu": b"int main() {}\n",
    "llamafile/llamafile.h": b"// llamafile\n",
    "llamafile/tinyblas.h": b"// tinyblas\n",
    "llamafile/tinyblas.cu": b'#include "tinyblas.h"\n',
    "llama.cpp/ggml-impl.h": b"// nobody includes it\n",
    "llama.cpp/ggml-cuda.h": b'#include "ggml-backend.h"\nint ggml_backend_cuda_init(int d);\n',
    "llama.cpp/ggml-alloc.h": b"// alloc\n",
    "llama.cpp/ggml-common.h": b"// common\n",
    "llama.cpp/ggml-backend.h": b'#include "ggml-alloc.h"\n#include "ggml-backend-impl.h"\n',
    "llama.cpp/ggml-backend-impl.h": b'#include "ggml.h"\n#include "ggml-backend.h"\n',
    "llama.cpp/ggml-cuda.cu": DEVICE,
}
#: The files of CLASSIC that the compiler reads.
READ = {
    "ggml.h",
    "llamafile.h",
    "tinyblas.h",
    "tinyblas.cu",
    "ggml-cuda.h",
    "ggml-alloc.h",
    "ggml-common.h",
    "ggml-backend.h",
    "ggml-backend-impl.h",
    "ggml-cuda.cu",
}

_CU = b"#include <cuda.h>\nint ggml_backend_cuda_init(int device);\n"
_CORE = ("ggml.c", "ggml-alloc.c", "ggml-quants.c")
_HEADER = b"int ggml_backend_cuda_init(int d);\nint ggml_backend_cuda_get_device_count(void);\n"

#: llama.cpp in 2023: everything in the top folder.
ONE_FILE: dict[str, bytes] = {
    **dict.fromkeys((*_CORE, "ggml.h", "ggml-impl.h", "ggml-metal.m"), b"// core\n"),
    "ggml-backend.c": b"#ifdef GGML_USE_CUBLAS\n#endif\n",
    "ggml-cuda.cu": _CU + b"#if __CUDA_ARCH__ >= 610\n#endif\n#ifdef GGML_CUDA_FORCE_MMQ\n#endif\n",
    "ggml-cuda.h": _HEADER,
    "llama.h": b"",
    "llama.cpp": b"",
    "CMakeLists.txt": b"option(LLAMA_CUBLAS)\n",
    "models/vocab.gguf": b"GGUF",
}

#: llama.cpp from the end of 2024 on: ggml in its own folder, with its own CMake.
MODERN: dict[str, bytes] = {
    "include/llama.h": b"",
    "src/llama.cpp": b"",
    "CMakeLists.txt": b"add_subdirectory(ggml)\n",
    "ggml/CMakeLists.txt": (
        b'project("ggml" C CXX ASM)\nset(GGML_VERSION_MAJOR 0)\nset(GGML_VERSION_MINOR 25)\n'
        b"set(GGML_VERSION_PATCH 3)\noption(GGML_BACKEND_DL)\noption(GGML_CUDA_FORCE_MMQ)\n"
        b"option(GGML_CUDA_FA)\nset(GGML_CUDA_FA_QUANTS)\nset(GGML_CUDA_COMPRESSION_MODE)\n"
    ),
    "ggml/cmake/common.cmake": b"",
    "ggml/cmake/ggml-config.cmake.in": b"",
    "ggml/include/ggml.h": b"",
    "ggml/include/ggml-cuda.h": _HEADER + b"int ggml_backend_cuda_reg(void);\n",
    "ggml/src/CMakeLists.txt": b"",
    **{f"ggml/src/{name}": b"// core\n" for name in (*_CORE, "ggml-impl.h")},
    "ggml/src/ggml-backend.cpp": b"",
    "ggml/src/ggml-backend-reg.cpp": b"#ifdef GGML_USE_CUDA\n#endif\n",
    "ggml/src/ggml-threading.cpp": b"",
    "ggml/src/ggml-version.h.in": b'#define GGML_VERSION "@GGML_VERSION@"\n',
    "ggml/src/ggml-cpu/CMakeLists.txt": b"",
    "ggml/src/ggml-cpu/ggml-cpu.c": b"",
    "ggml/src/ggml-vulkan/ggml-vulkan.cpp": b"",
    "ggml/src/ggml-cuda/CMakeLists.txt": b"add_library(ggml-cuda)\n",
    "ggml/src/ggml-cuda/ggml-cuda.cu": _CU,
    "ggml/src/ggml-cuda/fattn.cu": (
        b"case GGML_OP_FLASH_ATTN_EXT:\n#ifndef GGML_CUDA_NO_FA\n#endif\n"
        b"if constexpr (GGML_CUDA_FA_##type_K##_##type_V) {}\n"
        b"auto load = [&] __device__ (int n) {};\n"
    ),
    "ggml/src/ggml-cuda/common.cuh": (
        b"#define GGML_CUDA_CC_DP4A 610\n#define GGML_CUDA_CC_TURING 750\n"
        b"#define GGML_CUDA_CC_BLACKWELL 1200\n#ifdef GGML_CUDA_FORCE_MMQ\n#endif\n"
        b"#if __CUDA_ARCH__ >= GGML_CUDA_CC_TURING && __CUDA_ARCH__ < GGML_CUDA_CC_BLACKWELL\n"
        b"#endif\n"
        b"#if __CUDA_ARCH__ >= GGML_CUDA_CC_DP4A\n#endif\n"
    ),
    "ggml/src/ggml-cuda/vendors/cuda.h": b"#include <cublas_v2.h>\n",
    **{
        f"ggml/src/ggml-cuda/template-instances/{name}.cu": b""
        for name in (
            "mmq-instance-q8_0",
            "mmq-instance-iq2_s",
            "fattn-mma-f16-instance-ncols1_8-ncols2_1",
            "fattn-vec-instance-f16-f16",
            "fattn-vec-instance-q8_0-q8_0",
            "fattn-vec-instance-q8_0-q4_0",
        )
    },
}


def write(folder: Path, contents: Mapping[str, bytes]) -> Path:
    """Write files by relative name and return the folder."""
    for name, data in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def zipped(contents: Mapping[str, bytes], prefix: bytes = b"") -> bytes:
    """A ZIP of deflated members, as a llamafile has it behind its program."""
    buffer = io.BytesIO()
    buffer.write(prefix)
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def tarred(contents: Mapping[str, bytes], mode: str = "w:gz", top: str = "top/") -> bytes:
    """A tar archive with one folder at the top, as source archives have."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in contents.items():
            member = tarfile.TarInfo(top + name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def llamafile(contents: Mapping[str, bytes], weights: int = 100_000) -> bytes:
    """A program, a ZIP with sources, and weights that are stored as they are."""
    buffer = io.BytesIO(zipped(contents, b"MZqFpD='\n" + bytes(4000)))
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_STORED) as archive:
        archive.writestr("model.Q8_0.gguf", b"GGUF" + bytes(weights))
        archive.writestr(".args", b"-m\nmodel.Q8_0.gguf\n")
    return buffer.getvalue()


def with_crc(data: bytes, wanted: str) -> bytes:
    """Append four bytes that give ``data`` the CRC-32 ``wanted`` (hexadecimal)."""
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (0xEDB88320 if value & 1 else 0)
        table.append(value)
    by_top_byte = {value >> 24: index for index, value in enumerate(table)}
    register = int(wanted, 16) ^ 0xFFFFFFFF
    for _ in range(4):  # run the checksum backwards over four unknown bytes
        index = by_top_byte[register >> 24]
        register = (register ^ table[index]) << 8 & 0xFFFFFFFF | index
    whole = data + struct.pack("<I", register ^ zlib.crc32(data) ^ 0xFFFFFFFF)
    assert f"{zlib.crc32(whole):08x}" == wanted
    return whole


class Bench:
    """An empty working folder, an empty cache, and nobody's settings."""

    def __init__(self, folder: Path) -> None:
        self.cwd = folder / "work"
        self.cwd.mkdir()
        self.scratch = folder / "cache" / "sources"
        self.memo = Memo(folder / "cache" / "probes")
        self.environ = {"HOME": str(folder / "home"), "PIP_CONFIG_FILE": os.devnull}
        self.events: list[Any] = []

    def open(self, spec: str | Path) -> SourceTree:
        return open_source(
            str(spec),
            scratch=self.scratch,
            environ=self.environ,
            cwd=self.cwd,
            memo=self.memo,
            notify=self.events.append,
        )

    def file(self, name: str, data: bytes) -> Path:
        path = self.cwd / name
        path.write_bytes(data)
        return path

    def left_over(self) -> list[str]:
        """What lies in the cache beside finished copies and downloads."""
        if not self.scratch.exists():
            return []
        return [path.name for path in self.scratch.iterdir() if len(path.name) != 64]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def samples() -> Any:
    """The tools and contents of this file, for tests that make their own sources."""
    return sys.modules[__name__]
