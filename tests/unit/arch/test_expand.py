"""From keywords to concrete architectures."""

from __future__ import annotations

import random
from collections.abc import Collection

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamabuild.arch import CudaArch, Item, Keyword, expand, known_cuda, missing, needed, parse
from llamabuild.errors import ArchitectureError


def archs(numbers: str, *, virtual: bool = False) -> tuple[CudaArch, ...]:
    return tuple(
        CudaArch.from_code(f"{'compute' if virtual else 'sm'}_{n}") for n in numbers.split()
    )


# `nvcc --list-gpu-code` and the suffixed targets of `nvcc --help`.
CUDA_11_8 = "35 37 50 52 53 60 61 62 70 72 75 80 86 87 89 90"
CUDA_12_9 = (
    "50 52 53 60 61 62 70 72 75 80 86 87 89 90 90a 100 100a 100f 101 101a 101f 103 103a 103f "
    "120 120a 120f 121 121a 121f"
)
CUDA_13_0 = (
    "75 80 86 87 88 89 90 90a 100 100a 100f 103 103a 103f 110 110a 110f 120 120a 120f 121 121a 121f"
)
GGML = (61, 75, 86, 89)


def expanded(
    request: str,
    toolkit: str = CUDA_13_0,
    *,
    visible: str = "",
    levels: Collection[int] = GGML,
    literal: bool = False,
) -> str:
    result = expand(
        parse(request),
        visible=archs(visible),
        real=archs(toolkit),
        virtual=archs(toolkit, virtual=True),
        levels=levels,
        literal=literal,
    )
    return " ".join(str(arch).removesuffix("-real") for arch in result)


def test_native_is_the_union_of_the_visible_gpus() -> None:
    assert expanded("native", visible="89 61 89") == "61 89"


def test_native_takes_a_gpu_newer_than_the_toolkit_as_it_is() -> None:
    assert expanded("native", CUDA_11_8, visible="120") == "120"


@pytest.mark.parametrize("request_", ["native", "89,native", "all native"])
def test_native_without_a_gpu_is_an_error_that_names_the_flag(request_: str) -> None:
    with pytest.raises(ArchitectureError, match="native") as caught:
        expanded(request_)
    assert "--arch" in caught.value.hint


def test_the_reason_why_no_gpu_is_visible_is_told() -> None:
    with pytest.raises(ArchitectureError, match="CUDA_VISIBLE_DEVICES hides it"):
        needed([Keyword.NATIVE], visible=(), none_visible="CUDA_VISIBLE_DEVICES hides it")


def test_auto_is_native_with_a_gpu_and_all_major_without() -> None:
    assert expanded("auto", visible="90") == "90"
    assert expanded("auto") == expanded("all-major")


def test_all_is_every_real_architecture_and_ptx_of_the_newest() -> None:
    assert expanded("all") == "75 80 86 87 88 89 90 100 103 110 120 121 121-virtual"
    assert expanded("all", CUDA_11_8) == f"{CUDA_11_8} 90-virtual"


def test_all_major_adds_the_levels_at_which_the_source_changes() -> None:
    assert expanded("all-major") == "75 80 86 89 90 100 110 120 120-virtual"
    assert expanded("all-major", CUDA_11_8) == "35 50 60 61 70 75 80 86 89 90 90-virtual"
    assert (
        expanded("all-major", CUDA_12_9, levels=(61, 121))
        == "50 60 61 70 80 90 100 120 121 121-virtual"
    )


def test_a_level_the_toolkit_lacks_moves_up_to_the_next_it_has() -> None:
    assert expanded("all-major", "50 60 62 70", levels=(61,)) == "50 60 62 70 70-virtual"
    assert expanded("all-major", "50 60", levels=(61,)) == "50 60 60-virtual"


@pytest.mark.parametrize(
    ("toolkit", "all_major", "everything"),
    [
        # `nvcc --dryrun -arch=all-major` and `-arch=all`: the images given to fatbinary.
        (CUDA_11_8, "35 50 60 70 80 90 90-virtual", f"{CUDA_11_8} 90-virtual"),
        (
            CUDA_13_0,
            "75 80 90 100 110 120 120-virtual",
            "75 80 86 87 88 89 90 100 103 110 120 120-virtual 121",
        ),
    ],
)
def test_literal_is_what_nvcc_itself_does(toolkit: str, all_major: str, everything: str) -> None:
    assert expanded("all-major", toolkit, literal=True) == all_major
    assert expanded("all", toolkit, literal=True) == everything


def test_a_suffix_is_part_of_no_keyword_but_can_be_named() -> None:
    assert expanded("90a, all-major", levels=()) == "75 80 90 90a 100 110 120 120-virtual"


def test_ptx_that_the_toolkit_cannot_make_is_not_promised() -> None:
    chosen = expand(
        [Keyword.ALL], visible=(), real=archs("80 90"), virtual=archs("80", virtual=True)
    )
    assert chosen == archs("80 90")


def test_the_order_is_numeric() -> None:
    assert expanded("120, 9.0+PTX, 103a, 61, 90a") == "61 90 90-virtual 90a 103a 120"


def test_an_amd_target_is_refused() -> None:
    with pytest.raises(ArchitectureError, match="gfx1100 is an AMD GPU"):
        expanded("89, gfx1100")


def test_what_a_toolkit_must_have_is_known_before_it_is_chosen() -> None:
    wanted = needed(parse("61-virtual, native, all, auto"), visible=archs("89"))
    assert wanted == (CudaArch(61, virtual=True), CudaArch(89))


def test_what_a_toolkit_cannot_compile() -> None:
    wanted = parse("61, 61-virtual, 90, 90a, 120-virtual")
    assert all(isinstance(arch, CudaArch) for arch in wanted)
    lacking = missing(
        [arch for arch in wanted if isinstance(arch, CudaArch)],
        archs("61 90"),
        archs("90 120", virtual=True),
    )
    assert lacking == (CudaArch(61, virtual=True), CudaArch(90, "a"))


KNOWN = st.sampled_from(known_cuda())
CUDA = st.builds(lambda arch, v: CudaArch(arch.number, arch.suffix, v), KNOWN, st.booleans())
ITEMS: st.SearchStrategy[list[Item]] = st.lists(
    st.one_of(st.sampled_from(Keyword), CUDA), min_size=1
)
TOOLKIT = st.sampled_from([CUDA_11_8, CUDA_12_9, CUDA_13_0])
LEVELS = st.sets(st.integers(30, 130))


@given(ITEMS, TOOLKIT, LEVELS, st.booleans(), st.randoms(use_true_random=False))
def test_order_and_repetition_do_not_matter_and_nothing_is_left_to_expand(
    items: list[Item], toolkit: str, levels: set[int], literal: bool, shuffler: random.Random
) -> None:
    def run(wanted: list[Item]) -> tuple[CudaArch, ...]:
        return expand(
            wanted,
            visible=archs("89 61"),
            real=archs(toolkit),
            virtual=archs(toolkit, virtual=True),
            levels=levels,
            literal=literal,
        )

    result = run(items)
    shuffled = items * 2
    shuffler.shuffle(shuffled)
    assert run(shuffled) == result
    assert run(list(result)) == result
    assert list(result) == sorted(set(result))
    assert [arch.number for arch in result] == sorted(arch.number for arch in result)


@given(TOOLKIT, LEVELS)
def test_all_major_has_an_equal_of_every_gpu_for_every_level(
    toolkit: str, levels: set[int]
) -> None:
    """No GPU of the toolkit falls back below a level or a major version that it has reached."""
    real = archs(toolkit)
    chosen = expand(
        [Keyword.ALL_MAJOR],
        visible=(),
        real=real,
        virtual=archs(toolkit, virtual=True),
        levels=levels,
    )
    for gpu in real:
        runs = max(a.number for a in chosen if not a.virtual and a.number <= gpu.number)
        assert runs // 10 == gpu.major
        assert not any(runs < level <= gpu.number for level in levels)
