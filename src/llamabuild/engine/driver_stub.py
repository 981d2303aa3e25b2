"""A stand-in for the driver library, to link against where no driver is installed.

The stand-in must *define* the driver's functions. An empty library with the right name would also
let the linker pass, but the linker then leaves the library out of the module's needed ones, and
the module dies on a real GPU with ``undefined symbol: cuDeviceGet``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from llamabuild import run
from llamabuild.errors import ToolchainError

__all__ = ["SONAME", "build", "functions"]

SONAME = "libcuda.so.1"

#: CUDA_ERROR_NO_DEVICE, in case somebody loads the stand-in.
_NO_DEVICE = 100

_DECLARED = re.compile(r"\bCUDAAPI\s+(cu[A-Z]\w*)\s*\(")
#: cuda.h renames functions whose meaning changed: ``#define cuMemAlloc cuMemAlloc_v2``.
_RENAMED = re.compile(
    r"^\s*#\s*define\s+cu[A-Z]\w*\s+(?:__CUDA_API_PT\w+\(\s*)?(cu[A-Z]\w*)", re.MULTILINE
)


def functions(header: str) -> tuple[str, ...]:
    """The names that ``cuda.h`` lets a program link to, sorted."""
    return tuple(sorted({*_DECLARED.findall(header), *_RENAMED.findall(header)}))


def build(
    folder: Path, *, include_dir: Path, compiler: Path, environment: Mapping[str, str]
) -> Path:
    """Compile the stand-in and return the library to link against.

    :param folder: gets ``libcuda.so`` and its source.
    :param include_dir: the toolkit's folder with ``cuda.h``.
    :raises ToolchainError: no ``cuda.h``, or the host's C compiler cannot link a library.
    """
    header = include_dir / "cuda.h"
    try:
        names = functions(header.read_text(errors="replace"))
    except OSError as error:
        raise ToolchainError(
            f"{header} cannot be read: {error.strerror}",
            hint="install the CUDA runtime's headers (pip: nvidia-cuda-runtime)",
        ) from error
    folder.mkdir(parents=True, exist_ok=True)
    source, library = folder / "driver_stub.c", folder / "libcuda.so"
    source.write_text("".join(f"int {name}(void) {{ return {_NO_DEVICE}; }}\n" for name in names))
    done = run.capture(
        [compiler, "-shared", "-fPIC", f"-Wl,-soname,{SONAME}", "-o", library, source],
        env=environment,
        timeout=60,
    )
    if done.returncode:
        raise ToolchainError(
            f"{compiler} cannot link a shared library: {done.text.strip().splitlines()[:1]}",
            hint="install a working C compiler (Debian: apt install g++)",
        )
    return library
