from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamabuild.inspect import Entry, Kernel, Module
from llamabuild.inspect.coverage import coverage, gained, pick


def entries(*labels: str) -> list[Entry]:
    """ "61-real", "90-virtual", "gfx906" -> entries of one container."""
    kinds = {"real": "sass", "virtual": "ptx", "": "gcn"}
    found = []
    for label in labels:
        arch, _, kind = ("", "", "") if label.startswith("gfx") else label.partition("-")
        found.append(Entry(kinds[kind], arch or label, 0, 1, ()))  # type: ignore[arg-type]
    return found


def module(*found: Entry) -> Module:
    return Module(
        format="elf",
        machine="x86_64",
        exported=(),
        undefined=(),
        needed=(),
        soname="",
        stripped=True,
        path=Path("x.so"),
        entries=found,
        sha256="",
        size_bytes=0,
        notes=(),
    )


SHIPPED = ("50-real", "60-real", "70-real", "75-real", "80-real", "90-real")


@pytest.mark.parametrize(
    ("inside", "card", "runs", "picked"),
    [
        (SHIPPED, "61", "older", "60-real"),
        (SHIPPED, "60", "native", "60-real"),
        (SHIPPED, "52", "older", "50-real"),
        (SHIPPED, "89", "older", "80-real"),
        (SHIPPED, "75", "native", "75-real"),
        (SHIPPED, "35", "no", None),
        (SHIPPED, "120", "no", None),
        # Machine code never moves to another major version, nor down.
        (("80-real",), "90", "no", None),
        (("100-real",), "90", "no", None),
        (("61-real",), "60", "no", None),
        (("86-real", "80-real"), "89", "older", "86-real"),
        # PTX moves up to anything.
        (("61-virtual",), "90", "jit", "61-virtual"),
        (("60-virtual", "75-virtual"), "120", "jit", "75-virtual"),
        (("90-virtual",), "89", "no", None),
        (("90-virtual", "80-real"), "90", "jit", "90-virtual"),
        (("80-virtual", "80-real"), "86", "older", "80-real"),
        # "a" serves one architecture, "f" its family.
        (("90a-real",), "90", "native", "90a-real"),
        (("100a-real",), "103", "no", None),
        (("100f-real",), "103", "older", "100f-real"),
        (("103f-real",), "100", "no", None),
        (("120f-real", "120-real"), "120", "native", "120f-real"),
        (("120f-real", "120a-real", "120-real"), "120", "native", "120a-real"),
        (("121-real", "120f-real"), "121", "native", "121-real"),
        (("90a-virtual",), "100", "no", None),
        (("90a-virtual",), "90", "jit", "90a-virtual"),
        (("120f-virtual",), "121", "jit", "120f-virtual"),
        (("100f-virtual",), "120", "no", None),
        # Systems on a chip.
        (("80-real",), "87", "no", None),
        (("87-real",), "87", "native", "87-real"),
        (("87-real",), "89", "no", None),
        (("72-real",), "75", "no", None),
        (("80-virtual",), "87", "jit", "80-virtual"),
    ],
)
def test_nvidias_rule(inside, card, runs, picked):
    how, entry = pick(entries(*inside), card)
    assert (how, entry.label if entry else None) == (runs, picked)


@pytest.mark.parametrize(
    ("inside", "card", "runs", "picked"),
    [
        (("gfx906", "gfx1030"), "gfx906", "native", "gfx906"),
        (("gfx1030",), "gfx1031", "no", None),
        (("gfx10-3-generic",), "gfx1031", "native", "gfx10-3-generic"),
        (("gfx10-3-generic", "gfx1031"), "gfx1031", "native", "gfx1031"),
        (("gfx9-generic",), "gfx908", "no", None),
        (("gfx90a:xnack-",), "gfx90a", "native", "gfx90a:xnack-"),
        (("gfx90a:xnack-",), "gfx90a:sramecc+:xnack-", "native", "gfx90a:xnack-"),
        (("gfx90a:xnack-",), "gfx90a:xnack+", "no", None),
        (("gfx90a",), "gfx90a:xnack+", "native", "gfx90a"),
        (("61-virtual",), "gfx906", "no", None),
        (("gfx906",), "61", "no", None),
    ],
)
def test_amds_rule(inside, card, runs, picked):
    how, entry = pick(entries(*inside), card)
    assert (how, entry.arch if entry else None) == (runs, picked)


cards = st.sampled_from(
    ["50", "61", "75", "80", "86", "87", "89", "90", "100", "103", "120", "121"]
)
labels = st.builds(
    lambda arch, suffix, kind: f"{arch}{suffix}-{kind}",
    cards,
    st.sampled_from(["", "a", "f"]),
    st.sampled_from(["real", "virtual"]),
)


@given(st.lists(labels, max_size=6), cards)
def test_more_code_never_runs_worse(inside, card):
    order = ["no", "jit", "older", "native"]
    for count in range(len(inside)):
        fewer, _ = pick(entries(*inside[:count]), card)
        more, _ = pick(entries(*inside[: count + 1]), card)
        assert order.index(more) >= order.index(fewer)


@given(st.lists(labels, max_size=6), cards)
def test_code_never_runs_on_an_older_card_than_it_was_made_for(inside, card):
    _, entry = pick(entries(*inside), card)
    assert entry is None or int(entry.arch.rstrip("af")) <= int(card)


def unit(number: int, *code: tuple[str, str, tuple[Kernel, ...] | None]) -> list[Entry]:
    return [Entry(kind, arch, number, 1, kernels, (11, 8)) for kind, arch, kernels in code]  # type: ignore[arg-type]


GOOD, BAD, MAYBE = Kernel("a", "none"), Kernel("b", "trapped"), Kernel("c", "suspect")


def test_kernels_that_give_up_matter_on_another_gpu_than_they_were_made_for():
    shipped = module(*unit(0, ("sass", "60", (GOOD, BAD, MAYBE))))
    found = coverage(shipped, "61")
    assert (found.runs, found.entries, found.kernels) == ("older", ("60",), 3)
    assert (found.trapped, found.suspect) == (("b",), ("c",))
    assert not found.healthy
    assert coverage(shipped, "60").healthy
    assert not coverage(shipped, "70").healthy
    assert coverage(module(*unit(0, ("sass", "60", (GOOD, MAYBE)))), "61").healthy


def test_each_container_is_chosen_from_by_itself():
    found = coverage(
        module(
            *unit(0, ("sass", "80", (GOOD,)), ("sass", "89", (GOOD,))),
            *unit(1, ("sass", "80", (GOOD, BAD))),
        ),
        "89",
    )
    assert (found.runs, found.entries, found.kernels) == ("older", ("89", "80"), 3)


def test_a_container_that_has_nothing_for_the_gpu_spoils_the_module():
    found = coverage(
        module(*unit(0, ("sass", "89", (GOOD,))), *unit(1, ("sass", "90", (GOOD,)))), "89"
    )
    assert found.runs == "no"


def test_kernels_that_only_other_architectures_have_are_missing():
    shipped = module(
        *unit(0, ("sass", "60", (GOOD,)), ("sass", "75", (GOOD, Kernel("new", "none"))))
    )
    assert coverage(shipped, "61").missing == ("new",)
    assert not coverage(shipped, "61").healthy
    assert coverage(shipped, "60").healthy  # its host code knows that card
    assert coverage(shipped, "75").missing == ()


def test_what_cannot_be_read_is_unknown_not_fine():
    for kernels in (None, (GOOD, Kernel("x", "unknown"))):
        found = coverage(module(*unit(0, ("sass", "60", kernels))), "61")
        assert found.trapped is None
        assert not found.healthy


def test_a_module_without_code():
    assert coverage(module(), "61").runs == "no"


@pytest.mark.parametrize(
    ("kind", "arch", "cuda", "card", "driver"),
    [
        ("sass", "61", (11, 8), "61", "450.80.02"),
        ("sass", "90", (11, 8), "90", "520.61.05"),  # the card is younger than CUDA 11
        ("sass", "61", (12, 4), "61", "525.60.13"),
        ("sass", "61", (10, 2), "61", "440.33"),
        ("ptx", "61", (11, 8), "61", "520.61.05"),
        ("ptx", "61", (11, 8), "120", "570.26"),
        ("ptx", "61", (12, 7), "61", "570.26"),
        ("sass", "90", (13, 0), "90", "580.65.06"),
        ("sass", "90", (99, 0), "90", None),
        ("sass", "90", None, "90", None),
    ],
)
def test_the_driver_it_needs(kind, arch, cuda, card, driver):
    entry = Entry(kind, arch, 0, 1, (GOOD,), cuda)
    assert coverage(module(entry), card).min_driver == driver


@pytest.mark.parametrize(
    ("inside", "card", "version"),
    [
        ("gfx1030", "gfx1032", "10.3.0"),
        ("gfx1100", "gfx1103", "11.0.0"),
        ("gfx1030", "gfx906", ""),
        ("gfx1032", "gfx1030", "10.3.2"),  # the same instructions either way
        ("gfx906", "gfx900", ""),
        ("gfx1030", "gfx1030", ""),
    ],
)
def test_what_an_override_would_change(inside, card, version):
    assert coverage(module(Entry("gcn", inside, 0, 1, (GOOD,))), card).override == version


def test_what_the_card_has_beyond_its_code():
    (dp4a,) = gained("60", "61")
    assert "DP4A" in dp4a
    assert gained("61", "61") == ()
    assert len(gained("60", "75")) == 3
