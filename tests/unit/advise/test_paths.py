"""Types against architectures: complete, and as upstream's code has it."""

from __future__ import annotations

import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from llamabuild import arch
from llamabuild.advise.advice import _applies
from llamabuild.advise.facts import facts, mixtures, type_of, types
from llamabuild.advise.paths import abilities, path
from llamabuild.arch.facts import hip_features

ARCHS = sorted(
    {str(known.number) for known in arch.known_cuda()} | set(hip_features()) | set(arch.products()),
    key=lambda name: (len(name), name),
)


def test_every_type_has_a_way_on_every_architecture() -> None:
    for name in ARCHS:
        for kind in types().values():
            found = path(kind, name)
            assert {found.decode, found.prompt} <= set(facts()["paths"]), (kind.name, name)
            assert found.grade in {"good", "slow", "avoid"}
            assert found.why


def test_something_suits_every_architecture() -> None:
    for name in ARCHS:
        grades = {kind.name: path(kind, name).grade for kind in types().values()}
        assert grades["Q4_0"] != "avoid", name
        assert grades["F16"] != "avoid", name


@pytest.mark.parametrize(
    ("name", "able"),
    [
        ("50", set()),
        ("60", {"fast-f16"}),
        ("61", {"dp4a"}),
        ("62", {"dp4a", "fast-f16"}),
        ("70", {"dp4a", "fast-f16", "tensor-f16"}),
        ("75", {"dp4a", "fast-f16", "tensor-f16", "tensor-int8"}),
        ("89", {"dp4a", "fast-f16", "tensor-f16", "tensor-int8", "bf16"}),
        ("103", {"dp4a", "fast-f16", "tensor-f16", "tensor-int8", "bf16"}),
        ("121", {"dp4a", "fast-f16", "tensor-f16", "tensor-int8", "bf16", "tensor-fp4"}),
        ("130", {"dp4a", "fast-f16", "tensor-f16", "tensor-int8", "bf16"}),
        ("gfx803", {"fast-f16"}),
        ("gfx906", {"fast-f16", "dp4a"}),
        ("gfx90c", {"fast-f16", "blas-first"}),
        ("gfx1010", {"fast-f16"}),
        ("gfx1031", {"fast-f16", "dp4a"}),
        ("gfx942", {"fast-f16", "dp4a", "tensor-f16", "tensor-int8", "bf16"}),
        ("gfx1103", {"fast-f16", "dp4a", "tensor-f16", "tensor-int8", "bf16"}),
    ],
)
def test_what_a_gpu_can_do(name: str, able: set[str]) -> None:
    assert abilities(name) == able


@pytest.mark.parametrize(
    ("kind", "name", "ways", "grade"),
    [
        ("Q8_0", "61", ("dp4a", "dp4a"), "good"),
        ("Q8_0", "60", ("scalar", "blas"), "slow"),
        ("IQ2_XS", "60", ("scalar", "blas"), "avoid"),
        ("Q4_K", "70", ("dp4a", "dp4a-then-blas"), "good"),
        ("Q4_K", "75", ("dp4a", "tensor-int8"), "good"),
        ("IQ1_M", "90", ("dp4a", "blas"), "slow"),
        ("MXFP4", "90", ("dp4a", "tensor-int8"), "good"),
        ("MXFP4", "120", ("dp4a", "tensor-fp4"), "good"),
        ("TQ1_0", "90", ("none", "none"), "avoid"),
        ("BF16", "75", ("float", "blas"), "avoid"),
        ("BF16", "80", ("float", "tensor-f16"), "slow"),
        ("F16", "61", ("float", "float"), "slow"),
        ("Q4_0", "gfx1010", ("scalar", "scalar"), "slow"),
        ("Q4_0", "gfx900", ("scalar", "blas"), "slow"),
        ("Q4_0", "gfx1100", ("dp4a", "tensor-int8"), "good"),
    ],
)
def test_by_upstreams_rules(kind: str, name: str, ways: tuple[str, str], grade: str) -> None:
    found = path(types()[kind], name)
    assert ((found.decode, found.prompt), found.grade) == (ways, grade)


def test_the_seeds_card_is_told_why() -> None:
    assert "0.8.1 to 0.8.12 the kernels give up" in path(types()["Q8_0"], "60").why


def test_types_are_those_of_the_reference() -> None:
    """The package may be older or newer than our table; what both know must agree."""
    for number, (block, size) in GGML_QUANT_SIZES.items():
        kind = type_of(number.value)
        if kind is None:
            pytest.fail(f"{number.name} is not in advise.toml")
        assert (kind.name, kind.block, kind.bytes) == (number.name, block, size)
    known = {kind.value for kind in GGMLQuantizationType}
    assert sum(kind.number in known for kind in types().values()) == len(known)


@pytest.mark.parametrize(("weights", "size"), [(0, 0), (1, 144), (256, 144), (257, 288)])
def test_the_size_of_weights_is_whole_blocks(weights: int, size: int) -> None:
    assert types()["Q4_K"].size(weights) == size


def test_a_mixture_is_of_about_the_bits_of_its_types() -> None:
    sizes = [mixture.bits for mixture in mixtures()]
    assert sizes == sorted(sizes)
    for mixture in mixtures():
        bits = [kind.bits for kind in mixture.types]
        assert min(bits) - 0.01 <= mixture.bits <= max(bits) + 0.6, mixture.name


def test_every_flag_has_a_word_for_every_architecture() -> None:
    for name in ARCHS:
        vendor = "amd" if name.startswith("gfx") else "nvidia"
        for flag, entries in facts()["flags"].items():
            found = [entry for entry in entries if _applies(entry, vendor, abilities(name))]
            assert found, (flag, name)
            assert {entry["use"] for entry in entries} <= {"yes", "no", "try"}


def test_what_was_measured_is_of_known_types() -> None:
    for measured in facts()["measured"].values():
        assert measured["where"]
        assert set(measured["microseconds"]) <= set(types())
        assert all(len(times) in {2, 3} for times in measured["microseconds"].values())
