"""How much memory a model takes on a GPU: plain arithmetic on what its file says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llamabuild.advise.facts import facts, types
from llamabuild.advise.gguf import Model, Words
from llamabuild.errors import SourceError

__all__ = ["Need", "Shape", "cache_bytes", "context_that_fits", "layers_that_fit", "need", "shape"]

_MOST_LAYERS, _MOST = 1 << 12, 1 << 26


@dataclass(frozen=True)
class Shape:
    """What of a model decides its memory.

    :param architecture: ``llama``, ``qwen3``.
    :param layers: how many; for each, ``keys`` and ``values`` say how many numbers it keeps for
        every token of the context.
    :param trained_context: the longest context that it was made for; none if it does not say.
    :param window: some layers keep only so many tokens; which, the file does not say.
    :param gpu_bytes: weights on a GPU that takes every layer. The table of words stays with the
        processor, unless the output uses it too.
    :param gpu_weights: how many weights these are.
    """

    architecture: str
    layers: int
    keys: tuple[int, ...]
    values: tuple[int, ...]
    heads: int
    width: int
    vocabulary: int
    trained_context: int | None
    window: int | None
    gpu_bytes: int
    gpu_weights: int


@dataclass(frozen=True)
class Need:
    """Bytes on the GPU: weights, the cache of the context, buffers, and what a process takes."""

    weights: int
    cache: int
    buffers: int
    fixed: int

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.buffers + self.fixed


def shape(model: Model) -> Shape:
    """Read what decides the memory.

    :raises SourceError: the file does not say it, or says something absurd.
    """
    architecture = model.values.get("general.architecture")
    if not isinstance(architecture, str):
        raise _silent(model, "general.architecture")
    said = _Said(model, architecture)
    layers = said.number("block_count", most=_MOST_LAYERS)
    width = said.number("embedding_length")
    heads = said.each("attention.head_count", layers, default=0)
    kv_heads = said.each("attention.head_count_kv", layers, default=None) or heads
    most_heads = max(heads, default=0)
    usual = width // most_heads if most_heads else 0
    key = said.number("attention.key_length", default=usual)
    value = said.number("attention.value_length", default=usual)
    words = model.values.get("tokenizer.ggml.tokens")
    tied = not any(tensor.name == "output.weight" for tensor in model.tensors)
    on_gpu = [tensor for tensor in model.tensors if tied or tensor.name != "token_embd.weight"]
    return Shape(
        architecture=architecture,
        layers=layers,
        keys=tuple(count * key for count in kv_heads),
        values=tuple(count * value for count in kv_heads),
        heads=most_heads,
        width=width,
        vocabulary=words.count if isinstance(words, Words) else 0,
        trained_context=said.number("context_length", default=0) or None,
        window=said.number("attention.sliding_window", default=0) or None,
        gpu_bytes=sum(tensor.size_bytes for tensor in on_gpu),
        gpu_weights=sum(tensor.weights for tensor in on_gpu),
    )


@dataclass(frozen=True)
class _Said:
    """The values of one architecture, each a number within bounds."""

    model: Model
    architecture: str

    def number(self, name: str, *, default: int | None = None, most: int = _MOST) -> int:
        key = f"{self.architecture}.{name}"
        if default is not None and key not in self.model.values:
            return default
        value = self.model.values.get(key)
        if value is None:
            raise _silent(self.model, key)
        return self._checked(key, value, most)

    def each(self, name: str, layers: int, *, default: int | None) -> tuple[int, ...]:
        """A number for each layer: said once for all, or one by one; none said: empty."""
        key = f"{self.architecture}.{name}"
        value = self.model.values.get(key, default)
        if value is None:
            return ()
        listed = value if isinstance(value, tuple) else (value,) * layers
        if len(listed) < layers:
            raise SourceError(f"{self.model.path} says {key} for {len(listed)} of {layers} layers")
        return tuple(self._checked(key, one, _MOST) for one in listed[:layers])

    def _checked(self, key: str, value: Any, most: int) -> int:
        if type(value) is not int or not 0 <= value <= most:
            raise SourceError(
                f"{self.model.path} says {key} is {value!r}, which no model's is",
                hint="get the file again, or another conversion of the model",
            )
        return value


def _silent(model: Model, key: str) -> SourceError:
    return SourceError(
        f"{model.path} does not say {key}, so its memory cannot be told",
        hint="name the file of the language model, not of a projector, an adapter or a vocabulary",
    )


def cache_bytes(of: Shape, context: int, key_type: str = "F16", value_type: str = "F16") -> int:
    """Bytes that the keys and values of so many tokens take, at most.

    :param key_type: the type of the cache for keys, ``-ctk``; ``value_type``: ``-ctv``.
    """
    cells = -(-context // facts()["memory"]["cells"]) * facts()["memory"]["cells"]
    known: Mapping[str, Any] = types()
    rows = sum(
        known[key_type].size(keys) + known[value_type].size(values)
        for keys, values in zip(of.keys, of.values, strict=True)
    )
    return int(cells * rows)


def need(
    of: Shape, context: int, *, weights: int | None = None, flash: bool = False, cache: str = "F16"
) -> Need:
    """Say what a model takes with a context.

    Buffers are what the largest step needs for one batch: the scores of all words, or without flash
    attention the scores of all tokens with each other. That is a rule of thumb.

    :param weights: bytes of the weights, where it is not this file that is meant.
    :param cache: the type of keys and values.
    """
    memory = facts()["memory"]
    batch = min(memory["batch"], context)
    steps = [of.vocabulary, 8 * of.width, 0 if flash else of.heads * context]
    return Need(
        weights=of.gpu_bytes if weights is None else weights,
        cache=cache_bytes(of, context, cache, cache),
        buffers=4 * batch * max(steps),
        fixed=memory["fixed"],
    )


def context_that_fits(of: Shape, memory: int, *, weights: int | None = None) -> int:
    """The longest context, a multiple of the cache's cells; 0 where not even the weights fit."""
    step = facts()["memory"]["cells"]
    low, high = 0, max((of.trained_context or 1 << 20) // step, 1)
    while low < high:
        middle = (low + high + 1) // 2
        if need(of, middle * step, weights=weights).total <= memory:
            low = middle
        else:
            high = middle - 1
    return int(low * step)


def layers_that_fit(of: Shape, memory: int, context: int) -> int:
    """How many layers a GPU takes where it cannot take all (``-ngl``); the rest stays behind."""
    whole = need(of, context)
    if whole.total <= memory or not of.layers:
        return of.layers
    each = (whole.weights + whole.cache) / of.layers
    room = memory - whole.buffers - whole.fixed
    return max(0, min(of.layers - 1, int(room / each))) if each else of.layers
