"""AMD's targets: what is wanted, what keywords stand for, and in which order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamabuild.arch import (
    HipTarget,
    Keyword,
    expand_hip,
    hip_target,
    known_hip,
    needed_hip,
    parse,
    sorted_targets,
)
from llamabuild.errors import ArchitectureError

ALL = tuple(hip_target(name) for name in known_hip())
OLD = tuple(hip_target(name) for name in ("gfx803", "gfx900", "gfx906", "gfx1010", "gfx1030"))
NEW = (*OLD, hip_target("gfx1031"), hip_target("gfx10-3-generic"))


def names(targets: tuple[HipTarget, ...]) -> str:
    return " ".join(map(str, targets))


def expanded(text: str, visible: str = "", supported: tuple[HipTarget, ...] = NEW) -> str:
    seen = [hip_target(name) for name in visible.split()]
    return names(expand_hip(parse(text), visible=seen, supported=supported))


@pytest.mark.parametrize(
    ("text", "visible", "expected"),
    [
        ("gfx1030 gfx906 gfx1030", "", "gfx906 gfx1030"),
        ("gfx1100,gfx90a:xnack-:sramecc+", "", "gfx90a:sramecc+:xnack- gfx1100"),
        ("native", "gfx1100 gfx906 gfx1100", "gfx906 gfx1100"),
        ("auto", "gfx1100", "gfx1100"),
        ("auto", "", "gfx803 gfx900 gfx906 gfx1010 gfx1030"),
        ("all", "", "gfx803 gfx900 gfx906 gfx1010 gfx1030 gfx1031"),
        ("all-major", "", "gfx803 gfx900 gfx906 gfx1010 gfx1030"),
        ("all-major gfx1031", "", "gfx803 gfx900 gfx906 gfx1010 gfx1030 gfx1031"),
        ("all all-major", "", "gfx803 gfx900 gfx906 gfx1010 gfx1030 gfx1031"),
        ("gfx10-3-generic", "", "gfx10-3-generic"),
        ("all gfx906:xnack-", "", "gfx803 gfx900 gfx906:xnack- gfx1010 gfx1030 gfx1031"),
        ("gfx906:xnack- gfx906:xnack+", "", "gfx906:xnack+ gfx906:xnack-"),
    ],
)
def test_what_a_list_stands_for(text: str, visible: str, expected: str) -> None:
    assert expanded(text, visible) == expected


def test_a_card_that_nobody_knows_yet_is_compiled_for_all_the_same() -> None:
    assert expanded("native", "gfx1300") == "gfx1300"


def test_older_hardware_goes_first_whatever_the_numbers_look_like() -> None:
    assert names(sorted_targets(map(hip_target, ["gfx1030", "gfx90a", "gfx906"]))) == (
        "gfx906 gfx90a gfx1030"
    )


@pytest.mark.parametrize("text", ["sm_90", "gfx906,8.9", "rtx 4090"])
def test_nvidias_are_not_compiled_for_amd(text: str) -> None:
    with pytest.raises(ArchitectureError, match="is an NVIDIA GPU") as caught:
        needed_hip(parse(text), visible=[])
    assert "--backend hip" in caught.value.hint


def test_native_without_a_card_says_what_the_probe_says() -> None:
    with pytest.raises(ArchitectureError, match="no AMD GPU is visible: no such device") as caught:
        needed_hip(parse("native"), visible=[], none_visible="no such device", remedy="add it")
    assert caught.value.hint == "add it"
    with pytest.raises(ArchitectureError) as caught:
        needed_hip(parse("native"), visible=[])
    assert "--arch gfx1030" in caught.value.hint


def test_one_module_cannot_hold_a_target_pinned_and_unpinned() -> None:
    with pytest.raises(ArchitectureError, match="gfx90a and gfx90a:xnack- in one module"):
        needed_hip(parse("gfx90a,gfx90a:xnack-"), visible=[])


@given(st.sets(st.sampled_from([*ALL, *Keyword])), st.sets(st.sampled_from(ALL)))
def test_what_comes_out_is_sorted_and_was_named_seen_or_supported(
    items: set[HipTarget | Keyword], visible: set[HipTarget]
) -> None:
    if Keyword.NATIVE in items and not visible:
        return
    found = expand_hip(items, visible=visible, supported=OLD)
    named = {item for item in items if isinstance(item, HipTarget)}
    assert found == sorted_targets(found)
    assert named <= set(found) <= named | visible | set(OLD)
