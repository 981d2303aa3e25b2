"""Advice for the GPUs that are here, or for those that a user names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from llamabuild import advise, probe
from llamabuild.advise import Advice, Card
from llamabuild.errors import ArchitectureError
from llamabuild.pipeline.building import gpu_architecture
from llamabuild.pipeline.stages import detect
from llamabuild.probe import Detection, Gpu

__all__ = ["advice", "cards_here", "named_card"]

_MEMORY = re.compile(r"\s*\b(\d+(?:\.\d+)?)\s*(?:GiB|GB|G)\b", re.IGNORECASE)


def advice(
    names: Sequence[str],
    model: Path | None,
    context: int | None,
    environ: Mapping[str, str],
) -> tuple[Advice, ...]:
    """Advise on each GPU that is named, else on each kind of GPU that is here.

    :param model: a GGUF file, or a llamafile.
    :raises ArchitectureError: a name is not known; none is given, and there is no GPU.
    :raises UsageError: there is no such model.
    :raises SourceError: it is no model.
    """
    cards = [named_card(name) for name in names] or cards_here(detect(environ))
    head = advise.read_model(model) if model is not None else None
    return tuple(advise.advise(card, head, context) for card in cards)


def named_card(name: str) -> Card:
    """Return what a user names: a product or a compute capability, and how much memory it has.

    :param name: ``gtx 1080``, ``6.1``, ``rtx 3080 10GB``.
    :raises ArchitectureError: nobody knows it.
    """
    said = _MEMORY.search(name)
    product = _MEMORY.sub("", name, count=1).strip()
    memory = int(float(said[1]) * 2**30) if said and product else None
    return Card(name.strip(), gpu_architecture(product or name), memory)


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
