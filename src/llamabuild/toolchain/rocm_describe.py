"""What one ROCm is: where its pieces lie, and what its own clang says about them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from llamabuild import run
from llamabuild.arch import HipTarget, hip_target, known_hip, sorted_targets
from llamabuild.looking import is_file
from llamabuild.memo import Memo
from llamabuild.toolchain.environment import hip_environment
from llamabuild.toolchain.facts import FACTS, facts
from llamabuild.toolchain.model import Hipblas, Machine, Rocm
from llamabuild.toolchain.programs import PROBE_SECONDS, Hangs, Unusable, ask, remembered

__all__ = ["HEADER", "describe", "trouble"]

#: What makes a folder the top of a ROCm.
HEADER = "include/hip/hip_runtime.h"

#: clang++, below the top: AMD's releases; their wheels and packages since 7.9; Fedora; AMD's name.
#: Debian's (usr/lib/llvm-15/bin) are looked for by pattern.
COMPILERS = (
    "llvm/bin/clang++",
    "lib/llvm/bin/clang++",
    "lib64/rocm/llvm/bin/clang++",
    "bin/amdclang++",
    "bin/clang++",
)
#: Device libraries: AMD's releases; the wheels and packages since 7.9, where those of core may
#: hold what those of devel lack (ROCm/TheRock issue 5448); Debian 12; Fedora. Later Debians and
#: Ubuntus keep them with clang's own files.
DEVICE_LIBRARIES = (
    "amdgcn/bitcode",
    "lib/llvm/amdgcn/bitcode",
    "../_rocm_sdk_core/lib/llvm/amdgcn/bitcode",
    "lib/{multiarch}/amdgcn/bitcode",
    "lib64/amdgcn/bitcode",
)
WITH_CLANG = ("lib/amdgcn/bitcode", "amdgcn/bitcode")
LIBRARIES = ("lib", "lib/{multiarch}", "lib64")

_PARTS = ("MAJOR", "MINOR", "PATCH")
_PROBE = """\
#include <hip/hip_runtime.h>
__global__ void probe(float * x) { x[threadIdx.x] = expf(x[0]); }
"""


def describe(
    root: Path,
    *,
    found_via: str,
    named: bool,
    environ: Mapping[str, str],
    machine: Machine,
    memo: Memo,
    watched: list[Path],
) -> Rocm:
    """Return the ROCm below ``root``.

    Several clangs may be there, and several sets of device libraries: the first pair that compiles
    a small kernel is taken. LLVM reads device libraries of its own version or an older one, so
    Debian's clangs are tried from the oldest.

    :param watched: gets every file and folder that the answer depends on.
    :raises Unusable: a piece is missing, or no pair works.
    """
    version = _hip_version(root / "include/hip/hip_version.h")
    folders = [root / name.format(multiarch=machine.multiarch) for name in LIBRARIES]
    compilers = list(_compilers(root))
    runtime = _first("libamdhip64.so", folders)
    watched += [root / "include/hip/hip_version.h", *folders, *compilers, root / "lib"]
    if not compilers:
        raise Unusable("has no clang++", facts()["rocm"]["clang"])
    if runtime is None:
        raise Unusable("has no libamdhip64.so", facts()["rocm"]["headers"])
    problem = Unusable("has no device libraries (amdgcn/bitcode)", facts()["rocm"]["device"])
    for clang in compilers:
        places = _device_libraries(root, clang, found_via, environ, machine, memo)
        watched += places
        for libraries in (place for place in places if is_file(place / "ockl.bc")):
            try:
                answer = _answer(clang, root, libraries, found_via, environ, memo, watched)
            except Unusable as found:
                problem = found
                continue
            return Rocm(
                version=version,
                root=root,
                clang=clang,
                bundler=Path(answer["bundler"]),
                llvm=answer["llvm"],
                found_via=found_via,
                named=named,
                targets=tuple(hip_target(name) for name in answer["targets"]),
                without_libraries=tuple(answer["without_libraries"]),
                include_dir=root / "include",
                device_libraries=libraries,
                device_digest=answer["device_digest"],
                runtime=runtime,
                hipblas=_hipblas(root, folders),
            )
    raise problem


def _compilers(root: Path) -> Iterator[Path]:
    """Every clang++ of this ROCm."""
    places = [root / name for name in COMPILERS]
    # Sorting by length first puts llvm-9 before llvm-15.
    debian = sorted(root.glob("lib/llvm-*/bin/clang++"), key=lambda path: (len(str(path)), path))
    # /usr/bin/clang++ is whichever version is the default, not the one that HIP was made with.
    ordered = [*debian, *places] if debian else places
    yield from (path for path in ordered if is_file(path))


def _device_libraries(
    root: Path,
    clang: Path,
    found_via: str,
    environ: Mapping[str, str],
    machine: Machine,
    memo: Memo,
) -> list[Path]:
    """Where device libraries may be; what the user names in HIP_DEVICE_LIB_PATH goes first."""
    named = environ.get("HIP_DEVICE_LIB_PATH")
    places = [Path(named)] if named else []
    places += [root / name.format(multiarch=machine.multiarch) for name in DEVICE_LIBRARIES]
    with suppress(Unusable):  # it will say why when it is asked for its version
        resources = remembered(
            memo,
            "clang's own files",
            [clang],
            lambda: ask([clang, "-print-resource-dir"], hip_environment(environ)).strip(),
            found_via=found_via,
        )
        places += [Path(resources, name) for name in WITH_CLANG]
    return places


def _answer(
    clang: Path,
    root: Path,
    libraries: Path,
    found_via: str,
    environ: Mapping[str, str],
    memo: Memo,
    watched: list[Path],
) -> dict[str, Any]:
    """What a clang says of itself and of these device libraries.

    That a pair does not fit is remembered too; that a program cannot be started is not.

    :raises Unusable: any of these.
    """
    files = [clang, root / HEADER, libraries, libraries / "ockl.bc", FACTS]
    watched += files
    answer: dict[str, Any] = remembered(
        memo,
        f"ROCm, 1; {root}",
        files,
        lambda: _ask(clang, root, libraries, environ),
        found_via=found_via,
    )
    if "problem" in answer:
        raise Unusable(*answer["problem"])
    return answer


def _ask(clang: Path, root: Path, libraries: Path, environ: Mapping[str, str]) -> dict[str, Any]:
    """Everything that costs a process."""
    child, install = hip_environment(environ), facts()["rocm"]
    version = re.search(r"clang version (\d+\.\d+\.\d+)", ask([clang, "--version"], child))
    bundler = ask([clang, "-print-prog-name=clang-offload-bundler"], child).strip()
    # Without -nogpulib clang looks for device libraries before it answers.
    known = ask([clang, "--print-supported-cpus", "--target=amdgcn-amd-amdhsa", "-nogpulib"], child)
    processors = set(
        re.findall(r"^\s+(gfx[0-9a-f]{3,4}|gfx[0-9-]+-generic)\b", known, re.MULTILINE)
    )
    if version is None or not processors:
        return {"problem": (f"{clang} does not compile for AMD GPUs", install["clang"])}
    if not is_file(Path(bundler)):
        return {"problem": (f"{clang} has no clang-offload-bundler", install["clang"])}
    targets, without = _targets(processors, libraries)
    if not targets:
        wrong = f"the device libraries in {libraries} are for none of the GPUs that {clang} knows"
        return {"problem": (wrong, install["device"])}
    reason, hint = trouble(_probe(clang, root, libraries, targets[0], child), libraries)
    if reason:
        return {"problem": (f"{clang} {reason}", hint)}
    return {
        "llvm": version[1],
        "bundler": bundler,
        "targets": [str(target) for target in targets],
        "without_libraries": without,
        "device_digest": _digest(libraries),
    }


def _targets(processors: set[str], libraries: Path) -> tuple[tuple[HipTarget, ...], list[str]]:
    """What both clang and the device libraries have, and what clang knows alone.

    A target needs ``oclc_isa_version_N.bc``. What ROCm never supported, and we do not list, is
    left out: clang knows processors from before 2017 too.
    """
    names = {
        f"gfx{match[1]}"
        for file in libraries.glob("oclc_isa_version_*.bc")
        if (match := re.fullmatch(r"oclc_isa_version_([0-9a-z-]+)(\.amdgcn)?\.bc", file.name))
    }
    known = [one for one in known_hip() if one in processors]
    targets = sorted_targets(hip_target(name) for name in known if name in names)
    return targets, [name for name in known if name not in names]


def _probe(
    clang: Path, root: Path, libraries: Path, target: HipTarget, environ: Mapping[str, str]
) -> str:
    """Compile a kernel that needs headers, device libraries and a linker; return the complaints.

    :raises Unusable: clang hangs or cannot be started.
    """
    from tempfile import TemporaryDirectory  # not needed once the answer is remembered

    with TemporaryDirectory(prefix="llamabuild-") as folder:
        source = Path(folder, "probe.hip")
        source.write_text(_PROBE, "utf-8")
        try:
            done = run.capture(
                [
                    clang,
                    *("-x", "hip", "--cuda-device-only", f"--offload-arch={target}", "-O0"),
                    *(f"--rocm-path={root}", f"--rocm-device-lib-path={libraries}"),
                    *("-c", source, "-o", Path(folder, "probe.co")),
                ],
                env=environ,
                timeout=6 * PROBE_SECONDS,
            )
        except (run.CannotStart, run.OutOfTime) as error:
            raise Unusable(str(error)) from None
        except run.TimedOut as error:
            raise Hangs(str(error)) from None
    return done.text if done.returncode else ""


def trouble(complaints: str, libraries: Path) -> tuple[str, str]:
    """Say what is wrong with a clang that prints ``complaints``, and what would mend it."""
    if not complaints:
        return "", ""
    install = facts()["rocm"]
    producer = re.search(r"Producer: '(.+?)' Reader: '(.+?)'", complaints)
    if producer:
        made = f"they were made by {producer[1]}, and it is {producer[2]}"
        return f"cannot read the device libraries in {libraries}: {made}", install["device"]
    for sign in ("device library", "bitcode", "Invalid record", "Unknown attribute", "paque point"):
        if sign in complaints:
            return f"cannot use the device libraries in {libraries}", install["device"]
    if "lld" in complaints:
        return "has no linker for AMD's code beside it (lld)", install["linker"]
    errors = [line for line in complaints.splitlines() if "error" in line]
    first = (errors or complaints.strip().splitlines())[0]
    return f"cannot compile a small kernel: {first.strip()}", install["clang"]


def _hip_version(header: Path) -> str:
    try:
        text = header.read_text("utf-8", "replace")
    except OSError as error:
        raise Unusable(f"{header} cannot be read: {error.strerror}") from None
    parts = [re.search(rf"#define HIP_VERSION_{part}\s+(\d+)", text) for part in _PARTS]
    if None in parts:
        raise Unusable(f"{header} does not say its version", facts()["rocm"]["headers"])
    return ".".join(part[1] for part in parts if part is not None)


def _hipblas(root: Path, folders: list[Path]) -> Hipblas | None:
    include = root / "include"
    headers = [include / "hipblas/hipblas.h", include / "rocblas/rocblas.h"]
    libraries = [_first(name, folders) for name in ("libhipblas.so", "librocblas.so")]
    if not all(is_file(header) for header in headers) or None in libraries:
        return None
    return Hipblas(include, tuple(library for library in libraries if library is not None))


def _digest(libraries: Path) -> str:
    """Device libraries state no version, and get into every module."""
    import hashlib

    digest = hashlib.sha256()
    for name in ("ockl.bc", "ocml.bc"):
        if is_file(libraries / name):
            digest.update((libraries / name).read_bytes())
    return digest.hexdigest()[:12]


def _first(name: str, folders: list[Path]) -> Path | None:
    return next((folder / name for folder in folders if is_file(folder / name)), None)
