"""clang's part in a module for AMD GPUs: its steps as a graph, and its libraries.

clang compiles a HIP file once for each target and once for the host, one after another. Asked for
one half at a time, it leaves steps that run at once and can be counted: each target's code, a
bundle of these, and the host's object that carries the bundle. The three calls are what clang's
own driver makes of one (``clang -###``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from llamabuild.engine.graph import Graph, Stage
from llamabuild.engine.site import Site
from llamabuild.toolchain import Rocm

__all__ = ["graph", "libraries"]

#: Everything is written here, below the source.
_STAGES = "stages"
#: As clang's driver aligns code objects (clang/lib/Driver/ToolChains/HIPUtility.cpp).
_ALIGNMENT = 4096


def graph(site: Site, rocm: Rocm) -> Graph:
    """Every step for every device file of the plan."""
    (site.tree / _STAGES).mkdir(exist_ok=True)
    steps = [stage for device in site.plan.device for stage in _steps(site, rocm, device)]
    return Graph(
        stages=tuple(steps),
        objects=tuple(stage.makes[0] for stage in steps if stage.tool == "compiler"),
    )


def libraries(site: Site, rocm: Rocm) -> list[str]:
    """Replace ROCm's libraries by files to link; leave the system's names as they are.

    ``--hip-link`` would do so too, but some clangs look for them in the wrong folder on Debian
    (ROCm/llvm-project issue 3169).
    """
    linked: list[str] = []
    for name in site.plan.libraries:
        if name == "amdhip64":
            linked.append(str(rocm.runtime))
        elif name == "hipblas" and rocm.hipblas is not None:
            linked += map(str, rocm.hipblas.libraries)
        else:
            linked.append(name)
    return linked


def _steps(site: Site, rocm: Rocm, device: str) -> list[Stage]:
    """One file: the code for each target, the bundle, the object."""
    plan = site.plan
    stem = f"{_STAGES}/{hashlib.sha256(device.encode()).hexdigest()[:12]}"
    flags = _flags(site, rocm, device)
    codes = {str(target): f"{stem}-{number}.co" for number, target in enumerate(plan.archs)}
    bundle, whole = f"{stem}.hipfb", f"{stem}.o"
    name = device.rpartition("/")[2]
    each = [
        Stage(
            f"clang {target} {name}",
            "clang",
            (
                *(str(rocm.clang), *flags, f"--offload-arch={target}"),
                *("--cuda-device-only", "--no-gpu-bundle-output", "-c", device, "-o", code),
            ),
            (code,),
            (device,),
        )
        for target, code in codes.items()
    ]
    host = plan.system.partition("-")[2]
    bundling = (
        *(str(rocm.bundler), "-type=o", f"-bundle-align={_ALIGNMENT}"),
        "-targets="
        + ",".join(
            [
                f"host-{host}-unknown-linux",
                *(f"hipv4-amdgcn-amd-amdhsa--{target}" for target in codes),
            ]
        ),
        "-input=/dev/null",
        *(f"-input={code}" for code in codes.values()),
        f"-output={bundle}",
    )
    embedding = (
        *(str(rocm.clang), *flags, "--cuda-host-only"),
        *("-Xclang", "-fcuda-include-gpubinary", "-Xclang", bundle, "-c", device, "-o", whole),
    )
    return [
        *each,
        Stage(f"bundle {name}", "bundler", bundling, (bundle,), tuple(codes.values())),
        Stage(f"clang host {name}", "compiler", embedding, (whole,), (device, bundle)),
    ]


def _flags(site: Site, rocm: Rocm, device: str) -> Sequence[str]:
    """The plan's flags for one file but for the targets, with this machine's folders.

    clang derives the name of what is local to a file from the file's path, unless it is told one.
    """
    plan = site.plan
    unit = hashlib.sha256(f"{plan.key} {device}".encode()).hexdigest()[:16]
    return (
        *(
            "-x",
            "hip",
            f"--rocm-path={rocm.root}",
            f"--rocm-device-lib-path={rocm.device_libraries}",
        ),
        f"-cuid={unit}",
        *plan.host_flags,
        *(flag for flag in plan.device_flags if not flag.startswith("--offload-arch=")),
        *(f"-I{name}" for name in plan.source.includes),
        *(f"-D{define}" for define in plan.defines),
    )
