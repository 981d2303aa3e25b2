"""Our own kernels: the source that is always there."""

from __future__ import annotations

import re
from pathlib import Path

from llamabuild import __version__
from llamabuild.shipped import shipped
from llamabuild.source import digest, scan
from llamabuild.source.model import SourceTree

__all__ = ["BUNDLED", "ROOT", "describe"]

#: How a user names this source.
BUNDLED = "bundled"

ROOT = shipped("kernels")
_HEADER = "include/llamabuild_kernels.h"
_FUNCTION = re.compile(rb"^LLAMABUILD_API\b[^;(]*?\b(llamabuild_\w+)\(", re.MULTILINE)


def describe(root: Path = ROOT) -> SourceTree:
    """Describe the kernels; ``declared`` are the functions of their C header."""
    paths = sorted([*root.glob("src/*.cu"), *root.glob("src/*.h"), *root.glob("include/*.h")])
    contents = {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}
    device = b"\n".join(contents[name] for name in contents if name.startswith("src/"))
    # portable.h has one name for the architecture on CUDA, HIP and the host.
    levels = scan.levels(device.replace(b"LLAMABUILD_SM", b"__CUDA_ARCH__"))
    return SourceTree(
        kind=BUNDLED,
        version=__version__,
        root=root,
        files=tuple(contents),
        digest=digest.of_contents(contents),
        layout="kernels",
        flavors=(BUNDLED,),
        origin=BUNDLED,
        device=tuple(name for name in contents if name.endswith(".cu")),
        includes=("include",),
        nvcc_flags=("-std=c++17", "-O3"),
        fast_math=False,
        levels=levels,
        specific=("90a",),
        declared=tuple(sorted(name.decode() for name in _FUNCTION.findall(contents[_HEADER]))),
    )
