"""What a plan for AMD GPUs has of its own."""

from __future__ import annotations

from llamabuild.arch import HipTarget
from llamabuild.errors import SourceError, UsageError
from llamabuild.planning.choices import choose_blas, choose_flavor, effects, supported
from llamabuild.planning.plan import Parts, tables
from llamabuild.settings import Request
from llamabuild.source import SourceTree, flag_effects
from llamabuild.toolchain import Rocm, RocmNeeds

__all__ = ["parts", "rocm_needs"]


def rocm_needs(request: Request, source: SourceTree) -> RocmNeeds:
    """Say what the ROCm for this source must have: it is chosen by it, before anything compiles.

    :raises SourceError: the source has no code for AMD GPUs, or cannot do what a flag asks.
    """
    flavor = choose_flavor(request, source)
    supported("--backend hip", flag_effects(source, flavor)["hip"], source)
    linked = "hipblas" in choose_blas(request, source, flavor, library="hipblas").libraries
    return RocmNeeds(
        oldest=source.hip_oldest,
        why=source.hip_why,
        hipblas="the module is to be linked with it" if linked else source.hip_blas,
    )


def parts(
    request: Request,
    targets: tuple[HipTarget, ...],
    rocm: Rocm,
    source: SourceTree,
    flavor: str,
) -> Parts:
    """Say the request in clang's words.

    :raises SourceError: the source cannot do what a flag asks.
    :raises UsageError: a flag has no meaning for AMD GPUs.
    """
    _refuse_nvidias(request)
    base = supported("--backend hip", flag_effects(source, flavor)["hip"], source)
    found = (base, *effects(request, source, flavor, library="hipblas", fast_math=None))
    if request.fast_math and not any(effect.clang for effect in found):
        raise SourceError(
            f"--fast-math: the CMake of {source.origin} compiles for AMD GPUs without",
            hint="leave --fast-math out, or --flavor self-contained",
        )
    facts = tables()["hip"]
    own = flavor != "backend-dl"
    generic = any(target.name.endswith("-generic") for target in targets)
    return Parts(
        effects=found,
        device_flags=(
            *(f"--offload-arch={target}" for target in targets if own),
            *(facts["flags"] if own else ()),
            *(facts["generic"] if generic else ()),
            *(flag for flag in source.nvcc_flags if own and flag not in facts["foreign"]),
            *(flag for effect in found for flag in effect.clang),
        ),
        notes=(
            f"the module needs libamdhip64.so.{rocm.version.split('.')[0]} where it runs",
            *(["code for a generic target needs ROCm 6.3 or newer there"] if generic else ()),
        ),
    )


def _refuse_nvidias(request: Request) -> None:
    """What only nvcc can do. (A variable that names its host compiler is for other builds.)"""
    for flag, name in (
        ("--compress", "compress"),
        ("--host-compiler", "host_compiler"),
        ("--literal", "literal"),
    ):
        if request.origin(name) == flag and getattr(request, name):
            raise UsageError(
                f"{flag} is for nvcc, and code for AMD GPUs is compiled by clang alone",
                hint=f"leave {flag} out",
            )
