"""Advice for a GPU and a model, every line with its reason."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from llamabuild.advise.facts import Mixture, facts, mixtures, types
from llamabuild.advise.gguf import Model
from llamabuild.advise.memory import (
    Need,
    Shape,
    context_that_fits,
    layers_that_fit,
    need,
    shape,
)
from llamabuild.advise.paths import Grade, abilities, path
from llamabuild.arch import CudaArch, describe

__all__ = [
    "Advice",
    "Card",
    "FlagAdvice",
    "MixtureAdvice",
    "ModelAdvice",
    "TypeAdvice",
    "advise",
    "measured_flag",
]

_WORST_LAST: tuple[Grade, ...] = ("good", "slow", "avoid")
_USUAL = "Q4_K_M"


@dataclass(frozen=True)
class Card:
    """A GPU, or several of one kind that share a model.

    :param arch: "61", "gfx1100".
    :param memory_bytes: of all of them; none where nobody told.
    :param shared: the memory is the host's.
    """

    name: str
    arch: str
    memory_bytes: int | None = None
    count: int = 1
    shared: bool = False


@dataclass(frozen=True)
class TypeAdvice:
    """One type on one GPU.

    :param measured: microseconds of a product of 4096 x 14336 weights with 1, 8 and 512 columns,
        on such a GPU; empty where it is by rule only.
    """

    type: str
    bits: float
    decode: str
    prompt: str
    grade: Grade
    why: str
    measured: tuple[float, ...] = ()


@dataclass(frozen=True)
class MixtureAdvice:
    """One quantization of a model, or without one, of any: what it takes, and whether it fits.

    :param needs_bytes: estimated from the number of weights; none without a model.
    :param fits: none where the model or the memory is not known.
    :param longest_context: that fits; none likewise.
    :param largest_model: the number of weights that fits beside nothing but a process; none with
        a model, or where the memory is not known.
    """

    name: str
    bits: float
    grade: Grade
    needs_bytes: int | None = None
    fits: bool | None = None
    longest_context: int | None = None
    largest_model: int | None = None


@dataclass(frozen=True)
class FlagAdvice:
    """One flag of ``llamabuild build`` (or, with ``program``, of llamafile)."""

    flag: str
    use: str
    why: str
    program: bool = False


@dataclass(frozen=True)
class ModelAdvice:
    """The very file that was named.

    :param types: how many weights are of each type.
    :param layers: how many of ``all_layers`` the GPU takes; none where its memory is not known.
    """

    file: str
    architecture: str
    weights: int
    types: Mapping[str, int]
    need: Need
    fits: bool | None
    layers: int | None
    all_layers: int
    longest_context: int | None
    trained_context: int | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Advice:
    """Everything for one GPU.

    :param recommended: a mixture; "" where none fits whole. ``why`` is the reason.
    :param measured_on: where ``TypeAdvice.measured`` was; "" where it was nowhere.
    """

    card: Card
    context: int
    types: tuple[TypeAdvice, ...]
    mixtures: tuple[MixtureAdvice, ...]
    recommended: str
    why: str
    flags: tuple[FlagAdvice, ...]
    model: ModelAdvice | None
    measured_on: str
    cautions: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """An element of ``advice`` in ``advise --json``."""
        return asdict(self)


def advise(card: Card, model: Model | None = None, context: int | None = None) -> Advice:
    """Say which quantizations and flags suit a GPU.

    :param context: tokens; by default 8192, or fewer where the model was made for fewer.
    :raises SourceError: the model's file does not say what is needed.
    """
    of = shape(model) if model is not None else None
    if context is None:
        default = int(facts()["memory"]["context"])
        context = min(default, of.trained_context or default) if of else default
    graded = tuple(_mixture(one, card, of, context) for one in mixtures())
    recommended, why = _recommended(graded, context)
    return Advice(
        card=card,
        context=context,
        types=_types(card),
        mixtures=graded,
        recommended=recommended,
        why=why,
        flags=tuple(_flags(card, model, of, context)),
        model=_model(model, of, card, context) if model and of else None,
        measured_on=facts()["measured"].get(card.arch, {}).get("where", ""),
        cautions=tuple(
            text for name, text in facts()["cautions"].items() if card.arch.startswith(name)
        ),
    )


def _types(card: Card) -> tuple[TypeAdvice, ...]:
    measured = facts()["measured"].get(card.arch, {}).get("microseconds", {})
    rows = []
    for name, kind in types().items():
        if kind.family != "other":
            found = path(kind, card.arch)
            times = tuple(measured.get(name, ()))
            rows.append(TypeAdvice(name, kind.bits, **asdict(found), measured=times))
    return tuple(rows)


def _mixture(one: Mixture, card: Card, of: Shape | None, context: int) -> MixtureAdvice:
    grades = [path(kind, card.arch).grade for kind in one.types]
    found = MixtureAdvice(one.name, one.bits, max(grades, key=_WORST_LAST.index))
    memory = card.memory_bytes
    if of is None:
        fixed = int(facts()["memory"]["fixed"])
        room = None if memory is None else max(0, _room(card, memory) - fixed)
        largest = None if room is None else int(room * 8 / one.bits)
        return replace(found, largest_model=largest)
    weights = int(of.gpu_weights * one.bits / 8)
    total = _total(need(of, context, weights=weights), card)
    if memory is None:
        return replace(found, needs_bytes=total)
    return replace(
        found,
        needs_bytes=total,
        fits=total <= _usable(memory),
        longest_context=context_that_fits(of, _room(card, memory), weights=weights),
    )


def _total(needed: Need, card: Card) -> int:
    """Every further GPU has a process's share and buffers of its own."""
    return needed.total + (card.count - 1) * (needed.fixed + needed.buffers)


def _usable(memory: int) -> int:
    return memory - memory * int(facts()["memory"]["margin"]) // 100


def _room(card: Card, memory: int) -> int:
    """What is left for a model and one process."""
    return _usable(memory) - (card.count - 1) * int(facts()["memory"]["fixed"])


def _recommended(graded: Sequence[MixtureAdvice], context: int) -> tuple[str, str]:
    """Choose the largest that fits and is computed well: nothing beyond 8 bits, which costs time.

    Where nothing is known of the model or the memory it is the usual compromise.
    """
    fitting = [one for one in graded if one.fits is not False and one.bits < 9]
    for grade in ("good", "slow"):
        suitable = [one for one in fitting if one.grade == grade]
        if any(one.fits for one in suitable):
            best = max(suitable, key=lambda one: one.bits).name
            return best, f"the largest that fits with {context} tokens, of those computed well"
        if any(one.name == _USUAL for one in suitable):
            return _USUAL, "the usual compromise of size and quality; whether it fits is not known"
    return "", "none fits whole: take a smaller model or a shorter context, or leave layers out"


def _flags(card: Card, model: Model | None, of: Shape | None, context: int) -> Iterable[FlagAdvice]:
    yield _arch(card)
    able = abilities(card.arch)
    vendor = "amd" if card.arch.startswith("gfx") else "nvidia"
    for flag, entries in facts()["flags"].items():
        chosen = next(entry for entry in entries if _applies(entry, vendor, able))
        yield FlagAdvice(flag, chosen["use"], chosen["why"])
    if model is not None:
        yield _no_iq(model)
    if of is not None and card.memory_bytes is not None and any(of.keys):
        whole, small = need(of, context), need(of, context, flash=True, cache="Q8_0")
        saved = _total(whole, card) - _total(small, card)
        room = _usable(card.memory_bytes)
        yield FlagAdvice(
            "-fa -ctk q8_0 -ctv q8_0",
            "yes" if _total(small, card) <= room < _total(whole, card) else "try",
            f"flash attention and a cache of 8 bits save {saved / 2**30:.1f} GiB with {context} "
            "tokens",
            program=True,
        )


def _arch(card: Card) -> FlagAdvice:
    words = "machine code for this GPU, no other's"
    if not card.arch.startswith("gfx"):
        words += f"; {describe(CudaArch(int(card.arch)))}"
    return FlagAdvice(f"--arch {card.arch}", "yes", words)


def _applies(entry: Mapping[str, Any], vendor: str, able: frozenset[str]) -> bool:
    return (
        entry.get("vendor", vendor) == vendor
        and able.issuperset(entry.get("has", ()))
        and able.isdisjoint(entry.get("lacks", ()))
    )


def measured_flag(plain: Mapping[str, float], forced: Mapping[str, float]) -> FlagAdvice:
    """Judge ``--force-mmq`` by what was timed here.

    :param plain: microseconds by product, compiled without the flag; ``forced``: with it.
    """
    ratios = sorted(plain[product] / forced[product] for product in plain.keys() & forced.keys())
    if not ratios:
        return FlagAdvice("--force-mmq", "try", "nothing could be timed here")
    middle = ratios[len(ratios) // 2]
    same = int(facts()["measure"]["same"]) / 100
    words = f"timed here, with our own kernels: {middle:.2f} times the speed for long prompts"
    if abs(middle - 1) < same:
        return FlagAdvice("--force-mmq", "no", f"{words}, which is no difference")
    return FlagAdvice("--force-mmq", "yes" if middle > 1 else "no", words)


def _no_iq(model: Model) -> FlagAdvice:
    used = sorted(
        {tensor.kind.name for tensor in model.tensors if tensor.kind and tensor.kind.family == "iq"}
    )
    if used:
        return FlagAdvice("--no-iq", "no", f"this model holds {', '.join(used)}")
    why = "this model holds none of them: a smaller module, sooner built, for it and its like"
    return FlagAdvice("--no-iq", "try", why)


def _model(model: Model, of: Shape, card: Card, context: int) -> ModelAdvice:
    counted: dict[str, int] = {}
    for tensor in model.tensors:
        name = tensor.kind.name if tensor.kind else "unknown"
        counted[name] = counted.get(name, 0) + tensor.weights
    needed = need(of, context)
    memory = card.memory_bytes
    room = None if memory is None else _room(card, memory)
    return ModelAdvice(
        file=f"{model.member} in {model.path}" if model.member else str(model.path),
        architecture=of.architecture,
        weights=sum(tensor.weights for tensor in model.tensors),
        types=dict(sorted(counted.items(), key=lambda item: -item[1])),
        need=needed,
        fits=None if memory is None else _total(needed, card) <= _usable(memory),
        layers=None if room is None else layers_that_fit(of, room, context),
        all_layers=of.layers,
        longest_context=None if room is None else context_that_fits(of, room),
        trained_context=of.trained_context,
        notes=(*model.notes, *_notes(of, context)),
    )


def _notes(of: Shape, context: int) -> Iterable[str]:
    if of.window:
        yield f"some layers keep only {of.window} tokens, so the cache takes less than said here"
    if not any(of.keys):
        yield "it keeps no keys and values for each token; what it keeps instead is small"
    if of.trained_context and context > of.trained_context:
        yield f"it was made for {of.trained_context} tokens, and answers worse beyond"
