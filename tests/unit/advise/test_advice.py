"""Advice as a whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamabuild.advise import Advice, Card, FlagAdvice, Model, advise, measured_flag, read_model
from llamabuild.errors import SourceError

from .conftest import Forge, llama

GIB = 2**30
PASCAL = Card("GTX 1080", "61", 8 * GIB)
HOPPER = Card("H200", "90", 141 * GIB)


def flag(advice: Advice, name: str) -> FlagAdvice:
    (found,) = (one for one in advice.flags if one.flag.startswith(name))
    return found


def test_the_largest_that_fits_is_recommended(tmp_path: Path) -> None:
    advice = advise(PASCAL, read_model(llama(tmp_path)), 8192)
    assert advice.recommended == "Q5_K_M"
    by_name = {one.name: one for one in advice.mixtures}
    assert by_name["Q5_K_M"].fits
    assert not by_name["Q6_K"].fits
    longest = by_name["Q5_K_M"].longest_context
    assert longest is not None
    assert longest >= 8192


@pytest.mark.parametrize("card", [HOPPER, Card("P100", "60", 64 * GIB)])
def test_a_large_card_gets_eight_bits_and_not_sixteen(sound: Model, card: Card) -> None:
    assert advise(card, sound, 8192).recommended == "Q8_0"


def test_a_card_that_is_too_small(tmp_path: Path) -> None:
    card = Card("GT 1030", "61", 2 * GIB)
    advice = advise(card, read_model(llama(tmp_path)), 8192)
    assert advice.recommended == ""
    assert "none fits whole" in advice.why
    assert advice.model is not None
    assert advice.model.fits is False
    assert advice.model.layers is not None
    assert 0 <= advice.model.layers < 32


def test_what_is_computed_well_goes_before_what_is_larger(tmp_path: Path) -> None:
    """BF16 fits on it, but there is no arithmetic for it; IQ1_M is converted for prompts."""
    advice = advise(Card("RTX 2080 Ti", "75", 64 * GIB), read_model(llama(tmp_path)), 8192)
    grades = {one.name: one.grade for one in advice.mixtures}
    assert (grades["BF16"], grades["IQ1_M"], grades["Q4_K_M"]) == ("avoid", "slow", "good")
    assert advice.recommended == "Q8_0"


def test_nothing_is_avoided_to_death() -> None:
    """A card without DP4A still gets a recommendation."""
    assert advise(Card("P100", "60", 16 * GIB)).recommended == "Q4_K_M"


def test_without_a_model() -> None:
    advice = advise(PASCAL)
    assert advice.model is None
    by_name = {one.name: one for one in advice.mixtures}
    assert by_name["Q4_K_M"].needs_bytes is None
    room = 8 * GIB - 8 * GIB // 20 - 786_432_000
    assert by_name["Q8_0"].largest_model == int(room * 8 / 8.5008)


def test_without_memory(tmp_path: Path) -> None:
    card = Card("6.1", "61")
    advice = advise(card, read_model(llama(tmp_path)))
    assert all(one.fits is None and one.needs_bytes for one in advice.mixtures)
    assert advice.model is not None
    assert (advice.model.fits, advice.model.layers) == (None, None)
    assert all(one.largest_model is None for one in advise(card).mixtures)


def test_two_cards_share_a_model(tmp_path: Path) -> None:
    model = read_model(llama(tmp_path, kind=1))  # 16 GB
    assert not next(
        m for m in advise(Card("A", "86", 12 * GIB), model).mixtures if m.name == "F16"
    ).fits
    pair = advise(Card("A", "86", 24 * GIB, 2), model)
    assert next(m for m in pair.mixtures if m.name == "F16").fits
    one = advise(Card("A", "86", 24 * GIB), model)
    sizes = [next(m for m in a.mixtures if m.name == "F16").needs_bytes for a in (one, pair)]
    assert sizes[0] is not None
    assert sizes[1] is not None
    assert sizes[0] < sizes[1]  # every GPU has a process and buffers of its own
    assert pair.model is not None
    assert one.model is not None
    assert (pair.model.longest_context or 0) < (one.model.longest_context or 0)


class TestContext:
    def test_by_default(self, tmp_path: Path) -> None:
        assert advise(PASCAL, read_model(llama(tmp_path))).context == 8192

    def test_of_a_model_made_for_less(self, tmp_path: Path) -> None:
        model = read_model(llama(tmp_path, llama__context_length=2048))
        assert advise(PASCAL, model).context == 2048
        longer = advise(PASCAL, model, 4096)
        assert longer.model is not None
        assert any("made for 2048 tokens" in note for note in longer.model.notes)

    def test_of_a_model_that_looks_back_only_so_far(self, tmp_path: Path) -> None:
        model = read_model(llama(tmp_path, llama__attention__sliding_window=1024))
        advice = advise(PASCAL, model)
        assert advice.model is not None
        assert any("only 1024 tokens" in note for note in advice.model.notes)


class TestFlags:
    @pytest.mark.parametrize(
        ("arch", "use", "words"),
        [
            ("60", "no", "give up"),
            ("61", "no", "anyway"),
            ("70", "try", "tensor cores"),
            ("89", "no", "0.8.12"),
            ("gfx1100", "try", "hipBLAS"),
            ("gfx1030", "no", ""),
        ],
    )
    def test_force_mmq(self, arch: str, use: str, words: str) -> None:
        found = flag(advise(Card("", arch)), "--force-mmq")
        assert found.use == use
        assert words in found.why

    def test_the_architecture_is_always_told(self) -> None:
        found = flag(advise(PASCAL), "--arch")
        assert found.flag == "--arch 61"
        assert "6.1 needs CUDA 8.0 or newer, but older than 13.0" in found.why
        assert flag(advise(Card("", "gfx1100")), "--arch").why.endswith("no other's")

    def test_cublas_by_force(self) -> None:
        assert flag(advise(HOPPER), "--force-cublas").use == "try"
        assert "without tensor cores" in flag(advise(PASCAL), "--force-cublas").why
        assert "hipBLAS by itself" in flag(advise(Card("", "gfx1100")), "--force-cublas").why

    def test_iq_types_that_a_model_does_not_hold(self, tmp_path: Path) -> None:
        assert flag(advise(PASCAL, read_model(llama(tmp_path))), "--no-iq").use == "try"
        found = flag(advise(PASCAL, read_model(llama(tmp_path, kind=16))), "--no-iq")
        assert (found.use, found.why) == ("no", "this model holds IQ2_XXS")

    def test_a_small_cache_where_a_large_one_does_not_fit(self, tmp_path: Path) -> None:
        model = read_model(llama(tmp_path))
        found = flag(advise(Card("", "89", 8 * GIB), model, 16384), "-fa")
        assert (found.use, found.program) == ("yes", True)
        assert flag(advise(HOPPER, model, 8192), "-fa").use == "try"


def test_what_a_user_should_hear_first() -> None:
    assert "matrix cores" in advise(Card("", "gfx90c:xnack-")).cautions[0]
    assert advise(PASCAL).cautions == ()


class TestMeasured:
    def test_where_it_was(self) -> None:
        advice = advise(HOPPER)
        assert advice.measured_on == "an H200, ggml 0.21"
        assert next(one for one in advice.types if one.type == "Q4_K").measured[0] == 16.2

    def test_where_it_was_not(self) -> None:
        advice = advise(PASCAL)
        assert advice.measured_on == ""
        assert all(one.measured == () for one in advice.types)


class TestTimedHere:
    @pytest.mark.parametrize(
        ("forced", "use"), [(50.0, "yes"), (200.0, "no"), (102.0, "no"), (98.0, "no")]
    )
    def test_the_flag_is_judged_by_it(self, forced: float, use: str) -> None:
        plain = {"q4_0": 100.0, "q8_0": 100.0, "q4_K": 10.0}
        found = measured_flag(plain, {"q4_0": forced, "q8_0": forced, "q4_K": 10.0})
        assert (found.flag, found.use) == ("--force-mmq", use)
        assert f"{100 / forced:.2f} times the speed" in found.why
        assert "our own kernels" in found.why

    def test_nothing_was_timed(self) -> None:
        assert measured_flag({"q4_0": 1.0}, {}).use == "try"


def test_a_projector_is_no_model(forge: Forge) -> None:
    rows = [("v.blk.0.weight", (256, 4), 1, 0)]
    path = forge.file(forge.head({"general.architecture": "clip"}, rows), 10_000)
    with pytest.raises(SourceError) as caught:
        advise(PASCAL, read_model(path))
    assert "projector" in caught.value.hint


@given(
    st.sampled_from(["50", "60", "61", "70", "75", "90", "120", "gfx1030", "gfx1100"]),
    st.one_of(st.none(), st.integers(0, 1 << 40)),
    st.one_of(st.none(), st.integers(1, 1 << 21)),
    st.integers(1, 8),
)
def test_advice_is_json_and_consistent(
    sound: Model,
    arch: str,
    memory: int | None,
    context: int | None,
    count: int,
) -> None:
    advice = advise(Card("any", arch, memory, count), sound, context)
    json.dumps(advice.to_json())
    fitting = {one.name for one in advice.mixtures if one.fits is not False}
    assert advice.recommended in fitting | {""}
    if memory is not None:
        bits = [one.bits for one in advice.mixtures if one.fits]
        refused = [one.bits for one in advice.mixtures if not one.fits]
        assert max(bits, default=0) <= min(refused, default=99)
