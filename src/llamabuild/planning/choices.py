"""What each flag of a request means to a source; a flag that means nothing is refused."""

from __future__ import annotations

from llamabuild.errors import SourceError
from llamabuild.settings import Request
from llamabuild.source import Effect, SourceTree, flag_effects

__all__ = ["choose_blas", "choose_flavor", "effects", "supported"]


def choose_flavor(request: Request, source: SourceTree) -> str:
    """Return the flavor that was asked for, else the source's own.

    :raises SourceError: the source cannot be built so.
    """
    flavor = request.flavor or source.flavors[0]
    if flavor not in source.flavors:
        raise SourceError(
            f"{source.origin} cannot be built as {flavor}: it is a "
            f"{source.kind} source of the {source.layout} layout",
            hint=f"--flavor {' or '.join(source.flavors)}",
        )
    return flavor


def effects(
    request: Request, source: SourceTree, flavor: str, *, library: str, fast_math: bool | None
) -> tuple[Effect, ...]:
    """What the flags mean that both makers' GPUs have.

    :param library: what ``--blas cublas`` links: ``cublas`` or ``hipblas``.
    :param fast_math: what holds where the request does not say; none: nothing needs to be said.
    :raises SourceError: the source cannot do what a flag asks.
    """
    known = flag_effects(source, flavor)
    fast_math = fast_math if request.fast_math is None else request.fast_math
    asked = {
        "--force-mmq": "force-mmq" if request.force_mmq else "",
        "--force-cublas": "force-cublas" if request.force_cublas else "",
        "--no-iq": "no-iq" if request.no_iq else "",
        f"--fa {request.fa}": f"fa={request.fa}",
    }
    if fast_math is not None:
        name = "fast-math" if fast_math else "no-fast-math"
        asked[f"--{name}"] = name
    return (
        choose_blas(request, source, flavor, library=library),
        *(supported(flag, known[name], source) for flag, name in asked.items() if name),
    )


def choose_blas(request: Request, source: SourceTree, flavor: str, *, library: str) -> Effect:
    """Take tinyBLAS where the source has it, unless the maker's library is asked for.

    :raises SourceError: the source cannot do what a flag asks.
    """
    known = flag_effects(source, flavor)
    if request.blas is None and not request.force_cublas:
        tiny = known["blas=tiny"]
        return known[f"blas={library}"] if tiny.unsupported else tiny
    name = request.blas or "cublas"
    said = library if name == "cublas" else name
    return supported(f"--blas {name}", known[f"blas={said}"], source)


def supported(flag: str, effect: Effect, source: SourceTree) -> Effect:
    """Return ``effect``.

    :raises SourceError: it says why the source cannot do that.
    """
    if effect.unsupported:
        raise SourceError(
            f"{flag}: {source.origin} cannot do that: {effect.unsupported}",
            hint=f"leave {flag.split(maxsplit=1)[0]} out",
        )
    return effect
