"""``llamabuild advise``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from llamabuild.advise import Advice, ModelAdvice, TypeAdvice
from llamabuild.advise.facts import facts
from llamabuild.arch import CudaArch
from llamabuild.cli.commands.call import Call, document, show, table
from llamabuild.errors import UsageError
from llamabuild.pipeline import advising
from llamabuild.pipeline.advising import Advised, Measured

__all__ = ["advise"]


def advise(call: Call) -> int:
    request, model = call.request, call.arguments["model"]
    if request.measure and request.gpus:
        raise UsageError(
            "--measure times the GPU that is here, and --gpu names another",
            hint="leave one of the two out",
        )
    path = None if model is None else Path(model)
    given = advising.advice(request.gpus, path, request.context, call.environ)
    if request.measure:
        job = call.start()
        given = tuple(advising.measured(job, one) for one in given)
        call.renderer.close()
    if request.json:
        show(document({"advice": [one.to_json() for one in given]}))
    else:
        show("\n".join("".join(f"{line}\n" for line in _page(one)) for one in given))
    return 0


def _page(advised: Advised) -> Iterator[str]:
    advice = advised.advice
    yield f"GPU: {_card(advice)}"
    yield from (f"  {caution}" for caution in advice.cautions)
    if advice.model is not None:
        yield from _model(advice.model, advice.context)
    yield ""
    yield from table(_mixtures(advice)).splitlines()
    yield ": ".join(word for word in ("recommended", advice.recommended, advice.why) if word)
    yield ""
    yield "how it multiplies each type, by the rules of upstream's code:"
    yield from _types(advice.types)
    yield ""
    if advice.measured_on:
        head = f"measured on {advice.measured_on}, microseconds for 4096 x 14336 weights"
        yield f"{head} and 1, 8, 512 columns:"
        yield from table(_measured(advice.types)).splitlines()
    else:
        yield "by rule, not measured on such a GPU"
    if advised.measured:
        yield ""
        yield from _timed_here(advised.measured)
    yield ""
    for flag in advice.flags:
        whose = " (for llamafile itself)" if flag.program else ""
        yield f"{flag.use:4} {flag.flag}{whose}: {flag.why}"


def _timed_here(measured: Sequence[Measured]) -> Iterator[str]:
    for one in measured:
        yield f"timed here, our own kernels{f' with {one.flag}' if one.flag else ''}:"
        yield from (f"  {line}" for line in table(one.timings.table).splitlines())


def _gib(octets: int) -> str:
    """Memory as GPUs have it, in powers of two."""
    return f"{octets / 2**30:.1f} GiB"


def _card(advice: Advice) -> str:
    card = advice.card
    number = f"{card.count} x " if card.count > 1 else ""
    arch = card.arch if card.arch.startswith("gfx") else CudaArch(int(card.arch)).capability
    if card.memory_bytes is None:
        memory = "memory unknown: name it, as in --gpu 'rtx 3080 10GB'"
    else:
        memory = _gib(card.memory_bytes) + (", shared with the host" if card.shared else "")
    return f"{number}{card.name} ({arch}), {memory}"


def _model(model: ModelAdvice, context: int) -> Iterator[str]:
    kinds = [
        f"{name} {100 * weights / model.weights:.0f}%"
        for name, weights in model.types.items()
        if weights * 200 >= model.weights
    ]
    yield f"model: {model.file}: {model.architecture}, {model.weights / 1e9:.2f} billion weights"
    yield f"  its types: {', '.join(kinds)}"
    need = model.need
    verdict = {True: ": fits", False: ": does not fit", None: ""}[model.fits]
    yield (
        f"  {context} tokens: weights {_gib(need.weights)}, cache {_gib(need.cache)}, buffers "
        f"{_gib(need.buffers)}, process {_gib(need.fixed)}: {_gib(need.total)} in all{verdict}"
    )
    if model.fits is False and model.layers is not None:
        yield f"  {model.layers} of {model.all_layers} layers fit: -ngl {model.layers}"
    if model.longest_context:
        made_for = f" (made for {model.trained_context})" if model.trained_context else ""
        yield f"  longest context that fits: {model.longest_context} tokens{made_for}"
    for note in model.notes:
        yield f"  {note}"


def _mixtures(advice: Advice) -> list[list[str]]:
    with_model = advice.model is not None
    rows = [["quantization", "bits", "kernels"]]
    rows[0] += ["takes", "fits", "longest context"] if with_model else ["largest model"]
    for one in reversed(advice.mixtures):
        row = [one.name, f"{one.bits:.2f}", one.grade]
        if with_model:
            fits = {True: "yes", False: "no", None: "?"}[one.fits]
            row += [_gib(one.needs_bytes or 0), fits, str(one.longest_context or "-")]
        elif one.largest_model is not None:
            row.append(f"{one.largest_model / 1e9:.1f} billion weights")
        else:
            row.append("?")
        rows.append(row)
    return rows


def _types(types: Sequence[TypeAdvice]) -> Iterator[str]:
    """Types of which the same is to be said, together."""
    groups: dict[tuple[str, str, str, str], list[str]] = {}
    for one in types:
        groups.setdefault((one.grade, one.decode, one.prompt, one.why), []).append(one.type)
    words = facts()["paths"]
    for grade in ("good", "slow", "avoid"):
        for (found, decode, prompt, why), names in groups.items():
            if found == grade:
                yield f"  {grade:5} {' '.join(names)}"
                how = words[decode]
                if prompt != decode:
                    how = f"answers: {how}; prompts: {words[prompt]}"
                yield f"        {how}; {why}" if decode != "none" else f"        {why}"


def _measured(types: Sequence[TypeAdvice]) -> list[list[str]]:
    rows = []
    for one in types:
        if one.measured:
            times = [f"{time:g}" for time in one.measured]
            rows.append([f"  {one.type}", *times, *[""] * (3 - len(times))])
    return rows
