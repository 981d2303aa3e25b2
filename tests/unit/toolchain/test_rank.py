"""Choosing a toolkit for a request, and what is said when none will do."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamabuild.arch import CudaArch
from llamabuild.errors import ToolchainError
from llamabuild.toolchain import Rejected, Toolkit, ToolkitSearch, choose

from .conftest import make_toolkit

OLD = make_toolkit("11.8.89", [35, 50, 60, 61, 70, 75, 80, 86, 89, 90], cublas=True)
NEW = make_toolkit("13.0.88", [75, 80, 86, 89, 90, 100, 120])
BOTH = ToolkitSearch((NEW, OLD))


def archs(*numbers: int, virtual: bool = False) -> list[CudaArch]:
    return [CudaArch(number, virtual=virtual) for number in numbers]


def refusal(search: ToolkitSearch, *numbers: int, cublas: bool = False) -> ToolchainError:
    with pytest.raises(ToolchainError) as caught:
        choose(search, archs(*numbers), cublas=cublas)
    assert caught.value.exit_code == 4
    return caught.value


@pytest.mark.parametrize(
    ("needed", "chosen"),
    [([90], NEW), ([120], NEW), ([61], OLD), ([61, 90], OLD), ([75, 120], NEW), ([], NEW)],
)
def test_the_first_that_compiles_all_of_the_request_is_chosen(
    needed: list[int], chosen: Toolkit
) -> None:
    choice = choose(BOTH, archs(*needed), cublas=False)
    assert choice.toolkit == chosen
    assert choice.warnings == ()


def test_ptx_counts_as_much_as_machine_code() -> None:
    assert choose(BOTH, archs(61, virtual=True), cublas=False).toolkit == OLD


def test_a_suffix_must_be_one_that_the_toolkit_has() -> None:
    with pytest.raises(ToolchainError, match=r"9\.0a"):
        choose(BOTH, [CudaArch(90, "a")], cublas=False)


def test_those_passed_over_are_told_with_the_reason() -> None:
    (passed,) = choose(BOTH, archs(61, 90), cublas=False).passed_over
    assert passed == Rejected(NEW.root, NEW.found_via, "CUDA 13.0.88 does not compile 6.1")


def test_one_without_cublas_is_passed_over_where_cublas_is_needed() -> None:
    choice = choose(BOTH, archs(90), cublas=True)
    assert choice.toolkit == OLD
    assert "without cuBLAS" in choice.passed_over[0].reason


def test_per_arch_is_offered_when_each_architecture_has_a_toolkit_but_no_toolkit_has_all() -> None:
    error = refusal(BOTH, 61, 120)
    assert "6.1, 12.0" in error.message
    assert "CUDA 13.0.88 does not compile 6.1" in error.message
    assert "CUDA 11.8.89 does not compile 12.0" in error.message
    assert "--per-arch" in error.hint


def test_per_arch_is_not_offered_when_it_would_not_help() -> None:
    assert "--per-arch" not in refusal(BOTH, 61, 121).hint
    assert "--per-arch" not in refusal(ToolkitSearch((OLD,)), 120).hint
    assert "--per-arch" not in refusal(BOTH, 61, 120, cublas=True).hint


@pytest.mark.parametrize(
    ("installed", "needed", "cublas", "words"),
    [
        (OLD, [121], False, ["CUDA 12.9 or newer", "llamabuild[cuda13]"]),
        (NEW, [61], False, ["older than 13.0", "nvidia-cuda-toolkit", "11.8"]),
        (NEW, [35], False, ["older than 12.0", "nvidia-cuda-toolkit"]),
        (NEW, [90], True, ["llamabuild[cuda13-blas]"]),
        (
            OLD,
            [61, 121],
            False,
            ["CUDA 12.9 or newer, but older than 13.0", "cuda-toolkit-archive"],
        ),
        (OLD, [35, 121], False, ["3.5 needs CUDA", "12.1 needs CUDA 12.9"]),
    ],
)
def test_when_none_can_the_hint_says_what_to_install(
    installed: Toolkit, needed: list[int], cublas: bool, words: list[str]
) -> None:
    hint = refusal(ToolkitSearch((installed,)), *needed, cublas=cublas).hint
    for word in words:
        assert word in hint


def test_with_no_toolkit_at_all_the_error_lists_what_was_turned_down_and_its_cure() -> None:
    rejected = Rejected(NEW.root, "CUDA wheels", "lacks cicc", "`pip install nvidia-nvvm==13.0.88`")
    error = refusal(ToolkitSearch((), (rejected,)), 90)
    assert "lacks cicc" in error.message
    assert "nvidia-nvvm" in error.hint
    assert "llamabuild[cuda13]" in error.hint


def test_with_nothing_to_turn_down_it_says_what_to_install() -> None:
    error = refusal(ToolkitSearch(()), 61)
    assert error.message == "no usable CUDA toolkit was found"
    assert "nvidia-cuda-toolkit" in error.hint
    assert "llamabuild[cuda13]" not in error.hint


def test_a_toolkit_that_the_user_named_and_that_cannot_is_overruled_with_a_warning() -> None:
    named = make_toolkit("13.0.88", [75, 90], named=True, found_via="CUDA_HOME")
    choice = choose(ToolkitSearch((named, OLD)), archs(61), cublas=False)
    assert choice.toolkit == OLD
    (warning,) = choice.warnings
    assert warning.startswith("CUDA_HOME names")
    assert "does not compile 6.1" in warning
    assert OLD.label in warning


def test_a_known_defect_of_the_chosen_toolkit_is_a_warning() -> None:
    defective = make_toolkit("13.2.78", [90], known_problems=("miscompiles IQ",))
    assert choose(ToolkitSearch((defective,)), archs(90), cublas=False).warnings == (
        "miscompiles IQ",
    )


TOOLKITS = st.builds(
    make_toolkit,
    st.sampled_from(["11.8.89", "12.8.93", "13.0.88"]),
    st.lists(st.sampled_from([50, 61, 75, 90, 120]), min_size=1, unique=True),
    cublas=st.booleans(),
    named=st.booleans(),
)


@settings(deadline=None)
@given(
    st.lists(TOOLKITS, max_size=4),
    st.lists(st.sampled_from([50, 61, 75, 90, 120]), min_size=1, unique=True),
    st.booleans(),
)
def test_whatever_is_chosen_can_do_it_and_whatever_could_is_chosen(
    toolkits: list[Toolkit], needed: list[int], cublas: bool
) -> None:
    def able(toolkit: Toolkit) -> bool:
        return all(toolkit.compiles(arch) for arch in archs(*needed)) and (
            not cublas or toolkit.cublas is not None
        )

    search = ToolkitSearch(tuple(toolkits))
    if any(map(able, toolkits)):
        choice = choose(search, archs(*needed), cublas=cublas)
        assert choice.toolkit == next(filter(able, toolkits))
        assert len(choice.passed_over) == toolkits.index(choice.toolkit)
    else:
        assert refusal(search, *needed, cublas=cublas).hint
