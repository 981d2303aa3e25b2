"""Advice for the GPUs that are here, or for those that a user names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llamabuild import advise, probe, verify
from llamabuild.advise import Advice, Card
from llamabuild.advise.facts import facts
from llamabuild.errors import ArchitectureError
from llamabuild.pipeline.building import build
from llamabuild.pipeline.serving import gpu_architecture
from llamabuild.pipeline.stages import Job, detect, plan
from llamabuild.probe import Detection, Gpu
from llamabuild.source.bundled import BUNDLED
from llamabuild.verify import Timings

__all__ = ["Advised", "Measured", "advice", "cards_here", "measured", "named_card"]

_MEMORY = re.compile(r"\s*\b(\d+(?:\.\d+)?)\s*(?:GiB|GB|G)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Measured:
    """Our own kernels, timed on a GPU of this machine, compiled with ``flag`` ("": without)."""

    flag: str
    timings: Timings


@dataclass(frozen=True)
class Advised:
    """Advice by rule, and what was timed here."""

    advice: Advice
    measured: tuple[Measured, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """An element of ``advice`` in ``advise --json``."""
        timed = [{"flag": one.flag, **one.timings.to_json()} for one in self.measured]
        return {**self.advice.to_json(), "timed_here": timed}


def advice(
    names: Sequence[str],
    model: Path | None,
    context: int | None,
    environ: Mapping[str, str],
) -> tuple[Advised, ...]:
    """Advise on each GPU that is named, else on each kind of GPU that is here.

    :param model: a GGUF file, or a llamafile.
    :raises ArchitectureError: a name is not known; none is given, and there is no GPU.
    :raises UsageError: there is no such model.
    :raises SourceError: it is no model.
    """
    cards = [named_card(name) for name in names] or cards_here(detect(environ))
    head = advise.read_model(model) if model is not None else None
    return tuple(Advised(advise.advise(card, head, context)) for card in cards)


def measured(job: Job, advised: Advised) -> Advised:
    """Build our own kernels for a GPU that is here, with a flag and without, and time them.

    :raises ArchitectureError: there is no such GPU of NVIDIA's.
    """
    gpus = probe.detect_nvidia(job.environ).gpus
    arch = advised.advice.card.arch
    device = next((place for place, gpu in enumerate(gpus) if gpu.arch == arch), None)
    if device is None:
        raise ArchitectureError(
            f"there is no NVIDIA GPU of {arch} here, and others are not timed",
            hint="leave --measure out",
        )
    kinds = _types_to_time(advised.advice)
    timed = tuple(
        Measured(flag, _time(job, arch, device, kinds, force_mmq=bool(flag)))
        for flag in ("", "--force-mmq")
    )
    plain, forced = (_long_prompts(one.timings) for one in timed)
    judged = advise.measured_flag(plain, forced)
    flags = tuple(judged if flag.flag == judged.flag else flag for flag in advised.advice.flags)
    return Advised(replace(advised.advice, flags=flags), timed)


def _types_to_time(advice: Advice) -> list[str]:
    """Those of the model, else some that people use; floats have no flag to try."""
    integers = {one.type for one in advice.types if one.decode in {"dp4a", "scalar"}}
    integers -= set(facts()["measure"]["lacking"])
    named = [name for name in (advice.model.types if advice.model else ()) if name in integers]
    return named or list(facts()["measure"]["types"])


def _time(job: Job, arch: str, device: int, kinds: Sequence[str], *, force_mmq: bool) -> Timings:
    request = replace(job.request, source=BUNDLED, arch=arch, force_mmq=force_mmq)
    (built,) = build(plan(replace(job, request=request)))
    return verify.bench(
        built.path,
        device=device,
        types=kinds,
        columns=facts()["measure"]["columns"],
        environ=job.environ,
        notify=job.notify,
    )


def _long_prompts(timings: Timings) -> dict[str, float]:
    longest = max((row.n for row in timings.rows), default=0)
    return {row.type: row.microseconds for row in timings.rows if row.n == longest}


def named_card(name: str) -> Card:
    """Return what a user names: a product or a compute capability, and how much memory it has.

    :param name: ``gtx 1080``, ``6.1``, ``rtx 3080 10GB``.
    :raises ArchitectureError: nobody knows it.
    """
    said = _MEMORY.search(name)
    product = _MEMORY.sub("", name, count=1).strip()
    memory = int(float(said[1]) * 2**30) if said and product else None
    arch = gpu_architecture(product or name)
    # No GPU is 9.0a: the letter is a compiler's, and stands for code that only 9.0 runs.
    return Card(name.strip(), arch if arch.startswith("gfx") else arch.rstrip("af"), memory)


def cards_here(detection: Detection) -> list[Card]:
    """Return the GPUs that programs can see; those of one kind together.

    :raises ArchitectureError: there is none.
    """
    if not detection.gpus:
        why = detection.problems[0].message if detection.problems else "there is no GPU here"
        raise ArchitectureError(why, hint="name a GPU: --gpu 'rtx 3080 10GB', or --gpu 6.1")
    kinds: dict[tuple[str, str], list[Gpu]] = {}
    for gpu in detection.gpus:
        kinds.setdefault((gpu.name, gpu.arch), []).append(gpu)
    return [_together(gpus) for gpus in kinds.values()]


def _together(gpus: Sequence[Gpu]) -> Card:
    first = gpus[0]
    shared = all(gpu.memory_bytes is None for gpu in gpus)
    memory = probe.host_limits().memory_bytes if shared else _sum(gpu.memory_bytes for gpu in gpus)
    return Card(first.name, first.arch.partition(":")[0], memory, len(gpus), shared)


def _sum(sizes: Iterable[int | None]) -> int:
    return sum(size or 0 for size in sizes)
