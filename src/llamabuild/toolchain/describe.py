"""What one CUDA toolkit is: asked of its own programs and read from its own headers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamabuild import run
from llamabuild.arch import CudaArch
from llamabuild.looking import is_file, is_folder
from llamabuild.memo import Memo
from llamabuild.toolchain.facts import FACTS, facts, numbers
from llamabuild.toolchain.layout import (
    TOOLS,
    Layout,
    find_cublas,
    find_driver_stub,
    find_pieces,
)
from llamabuild.toolchain.model import Machine, Toolkit
from llamabuild.toolchain.programs import NVCC_FLAGS, Unusable, ask, remembered

__all__ = ["HostLimits", "describe", "disagreement", "host_limits", "target_codes"]


def describe(
    layout: Layout,
    *,
    found_via: str,
    named: bool,
    environ: Mapping[str, str],
    machine: Machine,
    memo: Memo,
) -> Toolkit:
    """Return the toolkit that lies as ``layout`` says.

    :raises Unusable: a piece is missing, of another version than nvcc, hangs or crashes.
    """
    pieces = find_pieces(layout, machine)
    crt = _crt_wheel(layout)
    math_functions = pieces["crt/host_config.h"].with_name("math_functions.h")
    files = [*pieces.values(), math_functions, FACTS]
    answer = remembered(
        memo,
        "CUDA toolkit, 1",
        files,
        lambda: _ask(layout, pieces, environ),
        found_via=found_via,
    )
    versions: dict[str, str] = answer["versions"] | ({"crt": _wheel_version(crt)} if crt else {})
    problem = disagreement(versions)
    if problem:
        raise Unusable(problem, _cure(layout, versions))
    return Toolkit(
        version=versions["nvcc"],
        root=layout.root,
        nvcc=pieces["nvcc"],
        found_via=found_via,
        named=named,
        real=_archs(answer["codes"], virtual=False),
        virtual=_archs(answer["codes"], virtual=True),
        pieces=tuple(sorted(versions.items())),
        path_dirs=tuple(folder for folder in layout.tool_dirs if is_folder(folder)),
        include_dir=pieces["cuda_runtime.h"].parent,
        library_dirs=tuple(folder for folder in layout.library_dirs if is_folder(folder)),
        cublas=find_cublas(layout, machine, memo),
        driver_stub=find_driver_stub(layout, machine),
        gcc_max=answer["gcc_max"],
        clang_max=answer["clang_max"],
        msvc=tuple(answer["msvc"]) if answer["msvc"] else None,
        glibc_below=answer["glibc_below"],
        split_compile=answer["split_compile"],
        compress_mode=answer["compress_mode"],
        threads=answer["threads"],
        known_problems=tuple(answer["known_problems"]),
    )


def _ask(layout: Layout, pieces: Mapping[str, Path], environ: Mapping[str, str]) -> dict[str, Any]:
    """Everything about a toolkit that costs a process or the reading of a header."""
    environ = run.environment(environ, unset=NVCC_FLAGS)
    help_text = ask([pieces["nvcc"], "--help"], environ)
    codes = target_codes(help_text)
    compute = next((code for code in codes if code.startswith("compute_")), None)
    if compute is None:
        raise Unusable("`nvcc --help` names no architecture that it can compile", layout.reinstall)
    versions = {
        tool: _tool_version(ask([pieces[tool], "--version"], environ), tool)
        for tool in TOOLS
        if tool != "cicc"
    }
    versions["cicc"] = _cicc_version(pieces["cicc"], compute, environ)
    versions["cudart"] = _cudart_version(_read(pieces["cuda_runtime_api.h"]))
    limits = host_limits(_read(pieces["crt/host_config.h"]))
    return {
        "versions": versions,
        "codes": codes,
        "split_compile": "--split-compile " in help_text,
        "compress_mode": "--compress-mode " in help_text,
        "threads": "--threads " in help_text,
        "gcc_max": limits.gcc_max,
        "clang_max": limits.clang_max,
        "msvc": limits.msvc,
        "glibc_below": _glibc_below(pieces["crt/host_config.h"].with_name("math_functions.h")),
        "known_problems": [
            defect["text"]
            for defect in facts()["defect"]
            if numbers(defect["first"]) <= numbers(versions["nvcc"]) < numbers(defect["fixed"])
        ],
    }


def target_codes(help_text: str) -> list[str]:
    """Return every ``sm_90a`` and ``compute_61`` that ``nvcc --help`` allows for --gpu-code.

    Of all that nvcc prints this is the one list that every version has, and that names the
    architectures with a suffix too (``--list-gpu-code`` leaves those out).
    """
    match = re.search(r"^--gpu-code\b.*?(?=^--|\Z)", help_text, re.MULTILINE | re.DOTALL)
    found = re.findall(r"'((?:sm|compute)_[1-9]\d{1,2}[af]?)'", match[0]) if match else []
    return sorted(set(found))


def _archs(codes: list[str], *, virtual: bool) -> tuple[CudaArch, ...]:
    found = (CudaArch.from_code(code) for code in codes)
    return tuple(sorted(arch for arch in found if arch.virtual is virtual))


def _tool_version(text: str, tool: str) -> str:
    match = re.search(r"release \d+\.\d+, V(\d+\.\d+\.\d+)", text)
    if match is None:
        raise Unusable(f"`{tool} --version` prints no version")
    return match[1]


def _cicc_version(cicc: Path, compute: str, environ: Mapping[str, str]) -> str:
    """``cicc`` has no option that prints its version, but signs the PTX it makes of nothing."""
    from tempfile import TemporaryDirectory  # not needed once the answer is remembered

    try:
        with TemporaryDirectory(prefix="llamabuild-") as folder:
            nothing = Path(folder, "nothing.ii")
            nothing.touch()
            return _tool_version(ask([cicc, "-arch", compute, nothing, "-o", "-"], environ), "cicc")
    except OSError as error:
        raise Unusable(
            f"no compiler works without a folder for temporary files: {error.strerror}",
            "name one in the variable TMPDIR",
        ) from None


def _cudart_version(header: str) -> str:
    match = re.search(r"#define\s+CUDART_VERSION\s+(\d+)", header)
    if match is None:
        raise Unusable("cuda_runtime_api.h does not say its version")
    return f"{int(match[1]) // 1000}.{int(match[1]) % 1000 // 10}"


def _crt_wheel(layout: Layout) -> Path | None:
    """The metadata of the wheel that brought the crt headers, which tell no version themselves."""
    if layout.kind != "wheels":
        return None
    site_packages = layout.root.parent.parent
    return next(iter(sorted(site_packages.glob("nvidia_cuda_crt-*.dist-info"))), None)


def _wheel_version(dist_info: Path) -> str:
    return dist_info.name.removesuffix(".dist-info").rpartition("-")[2]


def disagreement(versions: Mapping[str, str]) -> str:
    """Say which pieces are of another release than nvcc; empty when all agree.

    What nvcc calls and the crt headers are parts of one compiler, and must be of one release: a
    newer cicc writes PTX that ptxas refuses, newer crt headers lack what cudafe++ calls. The
    runtime's headers need only be of the same major version.
    """
    strangers = [
        f"{piece} is {version}"
        for piece, version in sorted(versions.items())
        if _release(piece, version) != _release(piece, versions["nvcc"])
    ]
    if not strangers:
        return ""
    return f"pieces of different versions: nvcc is {versions['nvcc']}, but {', '.join(strangers)}"


def _release(piece: str, version: str) -> tuple[int, ...]:
    return numbers(version)[: 1 if piece == "cudart" else 2]


def _cure(layout: Layout, versions: Mapping[str, str]) -> str:
    if layout.kind != "wheels":
        return layout.reinstall
    wheels = facts()["wheels"]
    nvcc = versions["nvcc"]
    pins = {
        f"{wheels[piece]}=={nvcc}"
        if piece != "cudart"
        else f"{wheels[piece]}=={nvcc.split('.')[0]}.*"
        for piece, version in versions.items()
        if _release(piece, version) != _release(piece, nvcc)
    }
    return f"`pip install {' '.join(sorted(pins, reverse=True))}`"


@dataclass(frozen=True)
class HostLimits:
    """The host compilers that a toolkit's ``crt/host_config.h`` accepts; none: no limit found."""

    gcc_max: int | None
    clang_max: int | None
    msvc: tuple[int, int] | None


def host_limits(header: str) -> HostLimits:
    """Read which host compilers the text of ``crt/host_config.h`` turns away.

    ``msvc`` are values of ``_MSC_VER``, from the first to below the second.
    """
    gcc = re.search(r"^#\s*if\s+__GNUC__\s*>\s*(\d+)", header, re.MULTILINE)
    clang = re.search(
        r"^#\s*if\s+defined\(__clang__\).*\s+#\s*if\s+\(*__clang_major__\s*(>=?)\s*(\d+)",
        header,
        re.MULTILINE,
    )
    msvc = re.search(r"_MSC_VER\s*<\s*(\d+)\s*\|\|\s*_MSC_VER\s*(>=?)\s*(\d+)", header)
    return HostLimits(
        gcc_max=int(gcc[1]) if gcc else None,
        clang_max=int(clang[2]) - (clang[1] == ">=") if clang else None,
        msvc=(int(msvc[1]), int(msvc[3]) + (msvc[2] == ">")) if msvc else None,
    )


def _glibc_below(math_functions: Path) -> str:
    """The first glibc whose declarations this header contradicts; empty: none known."""
    if not is_file(math_functions):
        return ""
    text = _read(math_functions)
    return next(
        (
            str(clash["since"])
            for clash in facts()["glibc"]
            if re.search(rf"\b{clash['function']}\(double \w+\)\s*;", text)
        ),
        "",
    )


def _read(header: Path) -> str:
    try:
        return header.read_text("utf-8", "replace")
    except OSError as error:
        raise Unusable(f"{header} cannot be read: {error.strerror}") from None
