"""Memory: known models, and what must hold for every model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamabuild.advise.facts import facts
from llamabuild.advise.gguf import Model, Tensor, read_model
from llamabuild.advise.memory import (
    Shape,
    cache_bytes,
    context_that_fits,
    layers_that_fit,
    need,
    shape,
)
from llamabuild.errors import SourceError

from .conftest import WEIGHTS, llama

MIB, GIB = 2**20, 2**30


def of(folder: Path, **values: Any) -> Shape:
    return shape(read_model(llama(folder, **values)))


class TestKnown:
    """Numbers that can be checked by hand, or against a program's own log."""

    def test_the_log_of_a_model(self) -> None:
        """TriLM 3.9B, 512 tokens: 180 MiB, buffers 105 (llamafile PR 552); some 50,000 words."""
        heads = (3072,) * 30
        found = Shape("llama", 30, heads, heads, 24, 3072, 50432, 2048, None, 0, 0)
        assert cache_bytes(found, 512) == 180 * MIB
        assert 0.9 < need(found, 512).buffers / (105 * MIB) < 1

    def test_the_cache(self, tmp_path: Path) -> None:
        assert cache_bytes(of(tmp_path), 8192) == GIB
        assert cache_bytes(of(tmp_path), 8192, "Q8_0", "Q8_0") == 544 * MIB
        assert cache_bytes(of(tmp_path), 1) == cache_bytes(of(tmp_path), 256) == 32 * MIB

    def test_the_weights_on_the_gpu(self, tmp_path: Path) -> None:
        """The table of words stays with the processor; the output matrix does not."""
        found = of(tmp_path)
        assert found.gpu_weights == WEIGHTS - 4096 * 128256
        in_blocks = 32 * (4096 * (2 * 4096 + 2 * 1024 + 3 * 14336))
        assert found.gpu_bytes == in_blocks * 144 // 256 + 32 * 4096 * 4 + 525336576 * 210 // 256

    def test_buffers(self, tmp_path: Path) -> None:
        """Without flash attention the scores of 32 heads, 8192 tokens, 512 at once, in floats."""
        assert need(of(tmp_path), 8192).buffers == 512 * MIB
        words = tuple("" for _ in range(128256))
        found = of(tmp_path, tokenizer__ggml__tokens=words)
        assert need(found, 8192, flash=True).buffers == 128256 * 512 * 4

    def test_the_sum(self, tmp_path: Path) -> None:
        needed = need(of(tmp_path), 8192)
        assert needed.total == sum(vars(needed).values())
        assert needed.fixed == facts()["memory"]["fixed"]

    def test_a_short_context_needs_small_buffers(self, tmp_path: Path) -> None:
        assert need(of(tmp_path), 64).buffers == 4 * 64 * 8 * 4096

    def test_no_context_is_longer_than_what_a_model_was_made_for(self, tmp_path: Path) -> None:
        assert context_that_fits(of(tmp_path), 1 << 45) == 131072

    def test_what_fits_exactly_fits(self, tmp_path: Path) -> None:
        found = of(tmp_path)
        total = need(found, 8192).total
        assert context_that_fits(found, total) == 8192
        assert context_that_fits(found, total - 1) == 8192 - 256
        assert layers_that_fit(found, total, 8192) == 32
        assert layers_that_fit(found, total - 1, 8192) == 31


class TestShapes:
    def test_the_output_that_uses_the_table_of_words(self) -> None:
        kind = read_kind()
        rows = [Tensor("token_embd.weight", 2560, kind), Tensor("blk.0.q.weight", 256, kind)]
        values = {"general.architecture": "x", "x.block_count": 1, "x.embedding_length": 256}
        found = shape(Model(Path("m"), "", values, tuple(rows)))
        assert found.gpu_weights == 2816

    def test_other_lengths_of_keys_and_values(self, tmp_path: Path) -> None:
        found = of(tmp_path, llama__attention__key_length=192, llama__attention__value_length=128)
        assert (found.keys[0], found.values[0]) == (8 * 192, 8 * 128)

    def test_heads_layer_by_layer(self, tmp_path: Path) -> None:
        """A hybrid: most layers keep no keys and values."""
        heads = tuple(8 if layer % 4 == 3 else 0 for layer in range(32))
        found = of(tmp_path, llama__attention__head_count_kv=heads)
        assert cache_bytes(found, 8192) == GIB // 4

    def test_all_heads_keep_their_own(self, tmp_path: Path) -> None:
        found = of(tmp_path, llama__attention__head_count_kv=None)
        assert cache_bytes(found, 8192) == 4 * GIB

    def test_no_attention_at_all(self, tmp_path: Path) -> None:
        found = of(
            tmp_path, llama__attention__head_count=None, llama__attention__head_count_kv=None
        )
        assert cache_bytes(found, 8192) == 0

    @pytest.mark.parametrize(
        ("key", "value", "words"),
        [
            ("general__architecture", None, "does not say general.architecture"),
            ("general__architecture", 7, "does not say general.architecture"),
            ("general__architecture", "clip", "does not say clip.block_count"),
            ("llama__block_count", None, "does not say llama.block_count"),
            ("llama__block_count", 1 << 20, "which no model's is"),
            ("llama__block_count", "many", "which no model's is"),
            ("llama__block_count", True, "which no model's is"),
            ("llama__embedding_length", 1.5, "which no model's is"),
            ("llama__attention__head_count_kv", (8, 8), "for 2 of 32 layers"),
            ("llama__attention__head_count_kv", tuple("x" * 32), "which no model's is"),
        ],
    )
    def test_what_cannot_be(self, tmp_path: Path, key: str, value: Any, words: str) -> None:
        with pytest.raises(SourceError) as caught:
            of(tmp_path, **{key: value})
        assert words in caught.value.message


def read_kind() -> Any:
    from llamabuild.advise.facts import types

    return types()["Q4_K"]


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    layers = draw(st.integers(1, 128))
    heads = st.integers(0, 64)
    keys = draw(st.lists(heads, min_size=layers, max_size=layers))
    length = draw(st.sampled_from([32, 64, 128, 256]))
    weights = draw(st.integers(10**6, 10**12))
    return Shape(
        "any",
        layers,
        tuple(count * length for count in keys),
        tuple(count * length for count in keys),
        max(keys),
        draw(st.integers(64, 1 << 14)),
        draw(st.integers(0, 300_000)),
        draw(st.one_of(st.none(), st.integers(256, 1 << 20))),
        None,
        weights // 2,
        weights,
    )


CONTEXTS = st.integers(1, 1 << 20)
MEMORY = st.integers(0, 1 << 40)


class TestForEveryModel:
    @given(shapes(), CONTEXTS, CONTEXTS)
    def test_a_longer_context_takes_no_less(self, any_: Shape, one: int, other: int) -> None:
        shorter, longer = sorted((one, other))
        assert cache_bytes(any_, shorter) <= cache_bytes(any_, longer)
        assert need(any_, shorter).total <= need(any_, longer).total

    @given(shapes(), st.integers(1, 4096))
    def test_the_cache_is_proportional(self, any_: Shape, steps: int) -> None:
        assert cache_bytes(any_, steps * 256) == steps * cache_bytes(any_, 256)

    @given(shapes(), CONTEXTS)
    def test_a_smaller_type_takes_less(self, any_: Shape, context: int) -> None:
        sizes = [cache_bytes(any_, context, kind, kind) for kind in ("Q4_0", "Q8_0", "F16", "F32")]
        assert sizes == sorted(sizes)
        assert need(any_, context, flash=True).total <= need(any_, context).total

    @given(shapes(), MEMORY)
    def test_the_longest_context_fits_and_a_longer_one_does_not(
        self, any_: Shape, memory: int
    ) -> None:
        longest = context_that_fits(any_, memory)
        assert longest % 256 == 0
        if longest:
            assert need(any_, longest).total <= memory
        most = (any_.trained_context or 1 << 20) // 256 * 256
        if longest < max(most, 256):
            assert need(any_, longest + 256).total > memory

    @given(shapes(), MEMORY, MEMORY, CONTEXTS)
    def test_more_memory_takes_no_fewer_layers(
        self, any_: Shape, one: int, other: int, context: int
    ) -> None:
        less, more = sorted((one, other))
        fewer, rest = (layers_that_fit(any_, memory, context) for memory in (less, more))
        assert 0 <= fewer <= rest <= any_.layers
        assert (rest == any_.layers) is (need(any_, context).total <= more)
