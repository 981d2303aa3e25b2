"""Find the C++ compiler that nvcc calls for the host's half of the code."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from llamabuild.errors import ToolchainError
from llamabuild.looking import is_file
from llamabuild.memo import Memo
from llamabuild.toolchain.facts import facts, numbers
from llamabuild.toolchain.model import HostCompiler, Machine, Toolkit
from llamabuild.toolchain.msvc import find_msvc
from llamabuild.toolchain.programs import Unusable, ask, find_program, on_path, remembered

__all__ = ["find_host_compiler"]

#: Older g++ cannot compile what llama.cpp needs, and no supported CUDA wants them.
OLDEST_MAJOR = 7
#: Where to begin counting down if a toolkit sets no limit.
NEWEST_MAJOR = 20


@dataclass(frozen=True)
class Candidate:
    path: Path
    found_via: str


def find_host_compiler(
    toolkit: Toolkit,
    environ: Mapping[str, str],
    *,
    explicit: str | None = None,
    memo: Memo,
    machine: Machine | None = None,
) -> HostCompiler:
    """Return the first host compiler that works and that ``toolkit`` accepts.

    Order: ``explicit`` (and then no other); ``CUDAHOSTCXX``, ``NVCC_CCBIN``, ``CXX``; ``g++``; the
    newest ``g++-N`` that the toolkit accepts; ``clang++`` and its likes. One that is too new for
    the toolkit is passed over, with a note. On Windows: MSVC, see :mod:`.msvc`.

    :raises ToolchainError: none fits; the hint names the package to install.
    """
    machine = machine or Machine.here()
    if machine.system == "windows":
        return find_msvc(toolkit, environ, explicit=explicit, memo=memo, machine=machine)
    misses: list[tuple[Candidate, Unusable]] = []
    for candidate in _candidates(toolkit, environ, explicit, machine):
        try:
            compiler = _described(candidate, environ, memo, machine)
            _check(compiler, toolkit)
        except Unusable as problem:
            misses.append((candidate, problem))
        else:
            return replace(compiler, notes=tuple(_told(miss) for miss in misses))
    if not misses:
        raise ToolchainError(
            f"no C++ compiler was found, and nvcc needs one; {toolkit.label} accepts g++ up to "
            f"{toolkit.gcc_max or 'any version'}",
            hint=facts()["install"]["any"],
        )
    hint = next((problem.hint for _, problem in misses if problem.hint), "") or _package(toolkit)
    if explicit:
        raise ToolchainError(
            _told(misses[0]), hint=f"leave --host-compiler out to use one that fits; or {hint}"
        )
    listed = "".join(f"\n  {_told(miss)}" for miss in misses)
    raise ToolchainError(f"no C++ compiler here works with {toolkit.label}:{listed}", hint=hint)


def _told(miss: tuple[Candidate, Unusable]) -> str:
    candidate, problem = miss
    return f"{candidate.path} ({candidate.found_via}): {problem.reason}"


def _candidates(
    toolkit: Toolkit, environ: Mapping[str, str], explicit: str | None, machine: Machine
) -> Iterator[Candidate]:
    """Every compiler to try, in order. Each file is tried once."""
    if explicit:
        yield from _named(explicit, "--host-compiler", environ, machine)
        return
    seen: set[str] = set()
    for candidate in (*_from_variables(environ, machine), *_installed(toolkit, environ, machine)):
        # /bin is /usr/bin; but g++ is not g++-12, even where it is a link to it: a compiler cache
        # decides by the name which compiler to be.
        file = f"{os.path.realpath(candidate.path.parent)}/{candidate.path.name}"
        if file not in seen:
            seen.add(file)
            yield candidate


def _from_variables(environ: Mapping[str, str], machine: Machine) -> Iterator[Candidate]:
    for variable in ("CUDAHOSTCXX", "NVCC_CCBIN", "CXX"):
        yield from _named(environ.get(variable, ""), variable, environ, machine)


def _named(
    value: str, found_via: str, environ: Mapping[str, str], machine: Machine
) -> Iterator[Candidate]:
    """What a user calls a compiler: a path, a name on PATH, or ``ccache g++ -m64``."""
    words = [word for word in value.split() if not word.startswith("-")]
    if words:
        path = find_program(value, environ, machine) or find_program(words[-1], environ, machine)
        yield Candidate(path or Path(value), found_via)


def _installed(
    toolkit: Toolkit, environ: Mapping[str, str], machine: Machine
) -> Iterator[Candidate]:
    for name, newest in (("g++", toolkit.gcc_max), ("clang++", toolkit.clang_max)):
        majors = range(newest or NEWEST_MAJOR, OLDEST_MAJOR - 1, -1)
        for alias in (name, *(f"{name}-{major}" for major in majors)):
            for path in on_path(alias, environ, machine):
                yield Candidate(path, "PATH")
        if name == "g++":
            for major in majors:  # Red Hat's way to have another version beside the system's
                toolset = machine.root / f"opt/rh/gcc-toolset-{major}" / "root" / "usr/bin/g++"
                if is_file(toolset):
                    yield Candidate(toolset, f"gcc-toolset-{major}")


def _described(
    candidate: Candidate, environ: Mapping[str, str], memo: Memo, machine: Machine
) -> HostCompiler:
    path = candidate.path
    if not is_file(path):
        raise Unusable("is no program")
    # features.h tells the C library's version, which is upgraded apart from the compiler.
    files = [path, Path(os.path.realpath(path)), machine.root / "usr/include/features.h"]
    answer = remembered(
        memo,
        "host compiler, 1",
        files,
        lambda: _ask(path, environ),
        found_via=candidate.found_via,
    )
    cc = _c_compiler(path)
    if cc is None:
        raise Unusable("has no C compiler beside it")
    return HostCompiler(
        path=path,
        cc=cc,
        kind=answer["kind"],
        version=answer["version"],
        found_via=candidate.found_via,
        glibc=answer["glibc"],
    )


def _ask(path: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """Ask for the macros by which CUDA's own headers judge a compiler, and the C library's."""
    text = ask([path, "-x", "c++", "-E", "-dM", "-include", "features.h", os.devnull], environ)
    macros = dict(re.findall(r"^#define (\w+) \"?([^\"\n]*)", text, re.MULTILINE))
    if "__INTEL_LLVM_COMPILER" in macros:
        raise Unusable("is Intel's compiler, which nvcc refuses")
    kind: Literal["gcc", "clang"] = "clang" if "__clang_major__" in macros else "gcc"
    parts = (
        ("__clang_major__", "__clang_minor__", "__clang_patchlevel__")
        if kind == "clang"
        else ("__GNUC__", "__GNUC_MINOR__", "__GNUC_PATCHLEVEL__")
    )
    if not all(part in macros for part in parts):
        raise Unusable("is neither g++ nor clang++")
    glibc = f"{macros['__GLIBC__']}.{macros['__GLIBC_MINOR__']}" if "__GLIBC__" in macros else ""
    return {"kind": kind, "version": ".".join(macros[part] for part in parts), "glibc": glibc}


def _c_compiler(cxx: Path) -> Path | None:
    """``gcc-11`` beside ``g++-11``, ``clang`` beside ``clang++``, ``cc`` beside ``c++``."""
    for ending, c in (("clang++", "clang"), ("g++", "gcc"), ("c++", "cc")):
        head, found, tail = cxx.name.rpartition(ending)
        if found:
            cc = cxx.with_name(f"{head}{c}{tail}")
            return cc if is_file(cc) else None
    return None


def _check(compiler: HostCompiler, toolkit: Toolkit) -> None:
    """Turn away what this toolkit's headers turn away.

    :raises Unusable: the compiler, or the C library it uses, is too new.
    """
    newest = toolkit.gcc_max if compiler.kind == "gcc" else toolkit.clang_max
    if newest is not None and compiler.major > newest:
        raise Unusable(
            f"is {compiler.kind} {compiler.version}, too new for CUDA {toolkit.version}, which "
            f"accepts up to {newest}"
        )
    if (
        compiler.glibc
        and toolkit.glibc_below
        and numbers(compiler.glibc) >= numbers(toolkit.glibc_below)
    ):
        raise Unusable(
            f"compiles against glibc {compiler.glibc}, whose mathematical functions the headers of "
            f"CUDA {toolkit.version} contradict (from glibc {toolkit.glibc_below} on)",
            "use a newer CUDA, `pip install 'llamabuild[cuda13]'`, or a compiler with an older C "
            "library, `conda install -c conda-forge gxx_linux-64`",
        )


def _package(toolkit: Toolkit) -> str:
    install = facts()["install"]
    if toolkit.gcc_max is None:
        return str(install["any"])
    return str(install["gcc"]).format(major=toolkit.gcc_max)
