"""Which AMD code runs on which card, and under which name."""

from __future__ import annotations

import tomllib
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamabuild import arch
from llamabuild.arch import facts, overrides

TABLES = tomllib.loads(Path(overrides.__file__).with_name("overrides.toml").read_text("utf-8"))
CARDS = sorted(name for name in facts.hip_features() if "generic" not in name)

# --- numbers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "target"),
    [
        (90000, "gfx900"),
        (90006, "gfx906"),
        (90010, "gfx90a"),
        (90012, "gfx90c"),
        (90402, "gfx942"),
        (90500, "gfx950"),
        (100103, "gfx1013"),
        (100306, "gfx1036"),
        (110501, "gfx1151"),
        (120001, "gfx1201"),
        (80003, "gfx803"),
        (0, ""),  # a processor
        (99, ""),
        (100016, ""),  # no stepping has two digits
        (101000, ""),
        (10**9, ""),
    ],
)
def test_the_kernels_number_is_a_target(number: int, target: str) -> None:
    assert arch.gfx_target(number) == target


@given(st.integers(1, 99), st.integers(0, 9), st.integers(0, 15))
def test_number_target_and_version_agree(major: int, minor: int, stepping: int) -> None:
    target = arch.gfx_target(major * 10000 + minor * 100 + stepping)
    assert arch.gfx_version(target) == f"{major}.{minor}.{stepping}"


@given(st.integers())
def test_any_number_is_a_target_or_none(number: int) -> None:
    target = arch.gfx_target(number)
    assert target == "" or arch.gfx_version(target)


def test_modes_do_not_change_the_version() -> None:
    assert arch.gfx_version("gfx90a:sramecc+:xnack-") == "9.0.10"


@pytest.mark.parametrize("target", ["gfx11-generic", "", "sm_90", "gfx", "gfx10", "gfx1030x"])
def test_what_has_no_version_is_refused(target: str) -> None:
    with pytest.raises(ValueError, match="has no version"):
        arch.gfx_version(target)


# --- what runs as it is --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("card", "compiled", "runs"),
    [
        ("gfx1030", ["gfx906", "gfx1030"], True),
        ("gfx1031", ["gfx1030"], False),
        ("gfx1031", ["gfx10-3-generic"], True),
        ("gfx1010", ["gfx10-3-generic"], False),
        ("gfx1151", ["gfx11-generic"], True),
        ("gfx950", ["gfx9-4-generic"], True),
        ("gfx942", ["gfx9-generic"], False),
        ("gfx90a", ["gfx90a:xnack-"], True),  # the card's mode is not known
        ("gfx90a:sramecc+:xnack-", ["gfx90a:xnack-"], True),
        ("gfx90a:sramecc+:xnack+", ["gfx90a:xnack-"], False),
        ("gfx90a:sramecc+:xnack-", ["gfx90a"], True),
        ("gfx90a:sramecc+:xnack-", ["gfx90a:sramecc-:xnack-"], False),
        ("gfx1030", [], False),
    ],
)
def test_runs_natively(card: str, compiled: list[str], runs: bool) -> None:
    assert arch.runs_natively(card, compiled) is runs


# --- under another name --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("card", "compiled", "version"),
    [
        *[(f"gfx103{step}", ["gfx1030", "gfx1100"], "10.3.0") for step in range(1, 7)],
        *[(f"gfx110{step}", ["gfx1030", "gfx1100"], "11.0.0") for step in range(1, 4)],
        ("gfx90c", ["gfx900", "gfx906"], "9.0.0"),
        ("gfx902", ["gfx900"], "9.0.0"),
        ("gfx909", ["gfx900"], "9.0.0"),
        ("gfx1012", ["gfx1010"], "10.1.0"),
        ("gfx1013", ["gfx1010", "gfx1030"], "10.1.0"),
        ("gfx1152", ["gfx1150", "gfx1100"], "11.5.0"),
        ("gfx1151", ["gfx1150", "gfx1100"], "11.5.0"),
        ("gfx1151", ["gfx1100"], "11.0.0"),
        ("gfx1201", ["gfx1200"], "12.0.0"),
        ("gfx1103", ["gfx1100", "gfx1102"], "11.0.2"),  # as few registers as the card
        ("gfx1031", ["gfx1032"], "10.3.2"),
        ("gfx90c:xnack+", ["gfx900"], "9.0.0"),
    ],
)
def test_a_card_takes_the_code_of_its_kin(card: str, compiled: list[str], version: str) -> None:
    found = arch.override_for(card, compiled)
    assert found is not None
    assert found.version == version
    assert found.version == arch.gfx_version(found.runs_as)


@pytest.mark.parametrize(
    ("card", "compiled"),
    [
        ("gfx1030", ["gfx1030"]),  # not needed
        ("gfx1031", ["gfx1030", "gfx10-3-generic"]),
        ("gfx1036", ["gfx1100"]),  # another major version
        ("gfx803", ["gfx900", "gfx1030"]),
        ("gfx90c:xnack+", ["gfx900:xnack-"]),  # would not be loaded
        ("gfx1030", []),
    ],
)
def test_no_override_is_made_up(card: str, compiled: list[str]) -> None:
    assert arch.override_for(card, compiled) is None


@pytest.mark.parametrize(
    ("card", "compiled", "word"),
    [
        ("gfx900", ["gfx906"], "v_dot4"),
        ("gfx90c", ["gfx906"], "v_dot4"),
        ("gfx1010", ["gfx1030"], "RDNA"),
        ("gfx1010", ["gfx1012"], "v_dot4"),
        ("gfx1103", ["gfx1150"], "scalar floating-point"),
    ],
)
def test_what_is_known_not_to_work_is_refused_with_its_reason(
    card: str, compiled: list[str], word: str
) -> None:
    assert arch.override_for(card, compiled) is None
    (sentence,) = arch.known_wrong(card, compiled)
    assert word in sentence
    assert card in sentence
    assert compiled[0] in sentence


def test_nothing_is_known_against_what_nobody_tries() -> None:
    assert arch.known_wrong("gfx1030", ["gfx1100"]) == ()


@pytest.mark.parametrize(
    ("card", "compiled"), [("gfx1103", "gfx1100"), ("gfx90c", "gfx900"), ("gfx1150", "gfx1151")]
)
def test_a_doubtful_override_says_so(card: str, compiled: str) -> None:
    found = arch.override_for(card, [compiled])
    assert found is not None
    assert found.warning


def test_an_identical_card_needs_no_warning() -> None:
    found = arch.override_for("gfx1031", ["gfx1030"])
    assert found is not None
    assert found.warning == ""
    assert found.standing == "documented"


# --- the tables ----------------------------------------------------------------------------------


def test_no_override_changes_the_major_version_or_is_known_to_be_wrong() -> None:
    """ROCm refuses another major version; with it, waves would have another size (9 and 10)."""
    for card, code in product(CARDS, CARDS):
        found = arch.override_for(card, [code])
        if found is not None:
            assert found.version.split(".")[0] == arch.gfx_version(card).split(".")[0]
            assert arch.known_wrong(card, [code]) == ()


@pytest.mark.parametrize("entry", TABLES["kin"] + TABLES["wrong"])
def test_every_entry_names_known_targets_and_a_source(entry: dict[str, object]) -> None:
    assert {*entry["code"], *entry["cards"]} <= set(CARDS)  # type: ignore[misc]
    assert entry["source"]


def test_generic_targets_are_those_of_the_parser() -> None:
    generic = {name for name in facts.hip_features() if "generic" in name}
    assert set(TABLES["generic"]) == generic
    assert all(set(cards) <= set(CARDS) for cards in TABLES["generic"].values())


def test_what_amd_ships_is_known() -> None:
    assert set(arch.listed_targets()) <= set(CARDS)
