"""What a plan for NVIDIA GPUs has of its own."""

from __future__ import annotations

from llamabuild.arch import CudaArch
from llamabuild.errors import ToolchainError
from llamabuild.planning.choices import choose_blas, choose_flavor, effects, supported
from llamabuild.planning.plan import Parts
from llamabuild.settings import Request
from llamabuild.source import Effect, SourceTree, flag_effects
from llamabuild.toolchain import Toolkit
from llamabuild.toolchain.facts import numbers

__all__ = ["needs_cublas", "parts", "specific"]


def needs_cublas(request: Request, source: SourceTree) -> bool:
    """Whether the module will link cuBLAS: the toolkit is chosen by it."""
    flavor = choose_flavor(request, source)
    return "cublas" in choose_blas(request, source, flavor, library="cublas").libraries


def specific(
    archs: tuple[CudaArch, ...], toolkit: Toolkit, source: SourceTree
) -> tuple[CudaArch, ...]:
    """Take 9.0a for 9.0 where the source has code for it alone and the toolkit can make it."""
    taken = []
    for arch in archs:
        own = CudaArch(arch.number, "a")
        machine_code = not (arch.virtual or arch.suffix)
        better = machine_code and own.name in source.specific and toolkit.compiles(own)
        taken.append(own if better else arch)
    return tuple(sorted(set(taken)))


def parts(
    request: Request,
    archs: tuple[CudaArch, ...],
    toolkit: Toolkit,
    source: SourceTree,
    flavor: str,
) -> Parts:
    """Say the request in nvcc's words.

    :raises SourceError: the source cannot do what a flag asks.
    :raises ToolchainError: the toolkit cannot do what a flag asks.
    """
    found = effects(request, source, flavor, library="cublas", fast_math=source.fast_math)
    if request.compress is not None:
        known = flag_effects(source, flavor)["compress"]
        found += (_compression(request.compress, known, source, toolkit),)
    own = flavor != "backend-dl"
    cublas = any("cublas" in effect.libraries for effect in found)
    if not cublas:
        _refuse_too_old(toolkit, source)
    return Parts(
        effects=found,
        device_flags=(
            *(f"-gencode={arch.gencode()}" for arch in archs if own),
            *(source.nvcc_flags if own else ()),
            *(flag for effect in found for flag in effect.nvcc),
        ),
        notes=_cublas_note(toolkit) if cublas else (),
        warnings=_passed_levels(archs, source.levels),
    )


def _refuse_too_old(toolkit: Toolkit, source: SourceTree) -> None:
    """Spare the user the minutes until the compiler finds out, where the release is known."""
    oldest = source.recipe.tinyblas_cuda if source.recipe and source.version else None
    if oldest and numbers(toolkit.version)[:2] < oldest:
        wanted = f"{oldest[0]}.{oldest[1]}"
        raise ToolchainError(
            f"{source.origin} does not compile with {toolkit.label}: its tinyBLAS needs CUDA "
            f"{wanted} or newer",
            hint=f"install CUDA {wanted} to 12.9, which compile 5.0 to 9.0, or say --blas cublas",
        )


def _passed_levels(archs: tuple[CudaArch, ...], levels: tuple[int, ...]) -> tuple[str, ...]:
    """Say which GPUs would run code made for an older one where the source has other code for them.

    A GPU runs the machine code of its major version that is nearest below it: this is how a 6.1
    card came to run 6.0 code, in which every kernel that needs DP4A gives up.
    """
    warnings = []
    for level in levels:
        below = [
            arch.number
            for arch in archs
            if not (arch.virtual or arch.suffix) and arch.major == level // 10
        ]
        nearest = max((number for number in below if number <= level), default=level)
        if nearest < level:
            card, code = CudaArch(level).capability, CudaArch(nearest).capability
            warnings.append(
                f"GPUs of {card} would run the code for {code}, and the source changes its code "
                f"at {card}: add {level} to --arch"
            )
    return tuple(warnings)


def _compression(mode: str, effect: Effect, source: SourceTree, toolkit: Toolkit) -> Effect:
    """``--compress`` needs an nvcc that has modes; older ones compress in one way only."""
    if not toolkit.compress_mode:
        raise ToolchainError(
            f"--compress {mode}: {toolkit.label} has no compression modes",
            hint="use CUDA 12.8 or newer, or leave --compress out",
        )
    effect = supported(f"--compress {mode}", effect, source)
    return Effect(
        nvcc=tuple(flag + mode for flag in effect.nvcc),
        options=tuple(option + mode for option in effect.options),
    )


def _cublas_note(toolkit: Toolkit) -> tuple[str, ...]:
    assert toolkit.cublas is not None
    return (f"the module needs {toolkit.cublas.soname} where it runs",)
