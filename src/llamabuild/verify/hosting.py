"""Compile a stand-in for the program that loads a classic or a ggml module.

The stand-in is C, in ``host/``, compiled against the headers of the source that the module was
built from: they lay down the API table, the interfaces and the calling convention.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from llamabuild import run
from llamabuild.source import SourceTree

__all__ = [
    "SOURCES",
    "TYPES",
    "CannotCompile",
    "classic_defines",
    "compile_c",
    "compile_host",
    "looked_up",
]

SOURCES = Path(__file__).with_name("host")
#: The types that a stand-in multiplies.
TYPES = ("q4_0", "q8_0", "q4_K", "q6_K")

#: What the loader of a classic llamafile looks up, in its order, and the first release that does
#: (dlsym in llamafile/cuda.c of every tag).
_LOOKED_UP = (
    ("ggml_cuda_link", (0, 7)),
    ("ggml_backend_cuda_host_buffer_type", (0, 7)),
    ("ggml_backend_cuda_buffer_type", (0, 7)),
    ("ggml_backend_cuda_init", (0, 7)),
    ("ggml_backend_cuda_split_buffer_type", (0, 7)),
    ("ggml_backend_cuda_reg_devices", (0, 7)),
    ("ggml_backend_cuda_get_device_properties", (0, 9, 2)),
    ("ggml_backend_cuda_get_device_memory", (0, 7)),
    ("ggml_backend_cuda_get_device_count", (0, 7)),
    ("ggml_backend_cuda_unregister_host_buffer", (0, 7)),
    ("ggml_backend_cuda_register_host_buffer", (0, 8, 1)),
    ("ggml_backend_cuda_get_device_description", (0, 8, 15)),
)
_LOOKED_UP_BY_0_6_2 = (
    "ggml_cuda_link",
    "ggml_init_cublas",
    "ggml_cublas_loaded",
    "ggml_cuda_host_free",
    "ggml_cuda_host_malloc",
    "ggml_cuda_can_mul_mat",
    "ggml_cuda_compute_forward",
    "ggml_cuda_get_device_count",
    "ggml_cuda_get_device_description",
    "ggml_backend_cuda_host_buffer_type",
    "ggml_backend_cuda_buffer_type",
    "ggml_backend_cuda_init",
    "ggml_backend_cuda_get_device_count",
    "ggml_backend_cuda_split_buffer_type",
    "ggml_backend_cuda_reg_devices",
    "ggml_backend_cuda_get_device_memory",
)


class CannotCompile(Exception):
    """No compiler, not the headers that a stand-in needs, or a fault of ours."""


def looked_up(release: str) -> tuple[str, ...]:
    """The symbols without which that release of llamafile refuses a module, in its order.

    :raises CannotCompile: a release that is not 0.6.2 to 0.9.3.
    """
    number = tuple(int(part) for part in re.findall(r"\d+", release))
    if number == (0, 6, 2):
        return _LOOKED_UP_BY_0_6_2
    if not (0, 7) <= number < (0, 10):
        raise CannotCompile(
            f"no stand-in loads modules as llamafile {release or '(unknown version)'} does"
        )
    return tuple(symbol for symbol, since in _LOOKED_UP if number >= since)


def compile_host(source: SourceTree, out: Path, environ: Mapping[str, str]) -> Path:
    """Compile the stand-in for modules that were built from ``source``; return the program.

    :raises CannotCompile: see there.
    """
    headers = [source.root / folder for folder in source.includes]
    if source.layout != "classic":
        has_reg = "ggml_backend_cuda_reg(" in _header(headers, "ggml-cuda.h")
        defines = {"HAS_REG": "1"} if has_reg else {}
        named = {define.partition("=")[0] for define in source.defines}
        if "GGML_MULTIPLATFORM" in named:  # llamafile's calling convention, where it is patched in
            defines["GGML_MULTIPLATFORM"] = "1"
        main = "ggml_host.c"
    else:
        # Where releases share a source (0.9.2-0.9.3), any of them would take the module.
        release = (source.version or "").split("-")[-1]
        table = re.search(
            r"struct ggml_backend_api \{(.*?)\};",
            _header(headers, "ggml-backend-impl.h"),
            re.DOTALL,
        )
        if not table:
            raise CannotCompile(f"no struct ggml_backend_api in {_listed(headers)}")
        defines = {
            "API_MEMBERS": _each(re.findall(r"\(\*\s*GGML_CALL\s+(\w+)\)", table[1])),
            "REQUIRED_SYMBOLS": _each(looked_up(release)),
            **classic_defines(headers),
        }
        main = "classic_host.c"
    files = [SOURCES / name for name in (main, "host.c", "quants.c")]
    return compile_c(files, out, environ, headers=headers, defines=defines)


def classic_defines(headers: Sequence[Path]) -> dict[str, str]:
    """What both sides of a classic release's interface must be compiled with."""
    defines = {"GGML_MULTIPLATFORM": "1"}  # the calling convention, since 0.6.1
    if re.search(r"\bvoid\s+ggml_cuda_link\b", _header(headers, "ggml-cuda.h")):
        defines["LINK_IS_VOID"] = "1"
    return defines


def compile_c(
    files: Sequence[Path],
    out: Path,
    environ: Mapping[str, str],
    *,
    headers: Sequence[Path] = (),
    defines: Mapping[str, str] | None = None,
    flags: Sequence[str] = (),
) -> Path:
    """Compile C files into one program or library.

    :raises CannotCompile: see there.
    """
    # What would call a function in another way than its header says is no warning but an error.
    strict = ("incompatible-pointer-types", "implicit-function-declaration")
    argv = [_compiler(environ), "-std=gnu11", "-O2", "-Wall", "-Wextra"]
    argv += [f"-Werror={warning}" for warning in strict]
    argv += [*flags, "-o", str(out)]
    argv += [f"-D{name}={value}" for name, value in (defines or {}).items()]
    # For quoted names only: llamafile 0.9 has a string.h of its own beside ggml.h.
    argv += [part for folder in headers for part in ("-iquote", str(folder))]
    try:
        done = run.capture([*argv, *map(str, files), "-ldl", "-lm"], env=environ, timeout=120)
    except (run.CannotStart, run.TimedOut) as error:
        raise CannotCompile(str(error)) from error
    if done.returncode:
        raise CannotCompile(f"the stand-in's source does not compile:\n{done.stderr[:2000]}")
    return out


def _compiler(environ: Mapping[str, str]) -> str:
    """A C compiler on PATH: the stand-in is compiled with extensions that gcc and clang share."""
    path = environ.get("PATH", os.defpath)
    for name in ("gcc", "cc", "clang"):
        found = shutil.which(name, path=path)
        if found:
            return found
    raise CannotCompile("there is no gcc, cc or clang on PATH")


def _header(headers: Sequence[Path], name: str) -> str:
    for folder in headers:
        if (folder / name).is_file():
            return (folder / name).read_text("utf-8", "replace")
    raise CannotCompile(f"there is no {name} in {_listed(headers)}")


def _listed(headers: Sequence[Path]) -> str:
    return ", ".join(map(str, headers))


def _each(names: Sequence[str]) -> str:
    return " ".join(f"X({name})" for name in names)
