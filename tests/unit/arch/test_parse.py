"""What --arch, CUDAARCHS, TORCH_CUDA_ARCH_LIST and PYTORCH_ROCM_ARCH may hold."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llamabuild.arch import CudaArch, HipTarget, Item, Keyword, known_cuda, parse, parse_gpu
from llamabuild.arch.facts import families, hip_features
from llamabuild.errors import ArchitectureError

CUDA = st.sampled_from(known_cuda()).flatmap(
    lambda arch: st.builds(CudaArch, st.just(arch.number), st.just(arch.suffix), st.booleans())
)
HIP = st.sampled_from(sorted(hip_features().items())).flatmap(
    lambda entry: st.builds(
        lambda signs: HipTarget(entry[0], tuple(f + s for f, s in sorted(signs.items()))),
        st.dictionaries(st.sampled_from(sorted(entry[1]) or [""]), st.sampled_from("+-")).map(
            lambda signs: {feature: sign for feature, sign in signs.items() if feature}
        ),
    )
)
ITEM: st.SearchStrategy[Item] = st.one_of(st.sampled_from(Keyword), CUDA, HIP)
SEPARATOR = st.sampled_from([";", ",", " ", "; ", " , ", ";;", "\t", "\n", ", ;"])


def texts(spelling: str) -> list[str]:
    return [str(item) for item in parse(spelling)]


@pytest.mark.parametrize(
    ("spelling", "meant"),
    [
        ("89", ["89-real"]),
        ("8.9", ["89-real"]),
        ("sm_89", ["89-real"]),
        ("sm89", ["89-real"]),
        ("SM_89", ["89-real"]),
        ("compute_89", ["89-virtual"]),
        ("89-real", ["89-real"]),
        ("89-virtual", ["89-virtual"]),
        ("8.9-virtual", ["89-virtual"]),
        ("8.9+PTX", ["89-real", "89-virtual"]),
        ("89+ptx", ["89-real", "89-virtual"]),
        ("90a", ["90a-real"]),
        ("9.0a", ["90a-real"]),
        ("sm_90a", ["90a-real"]),
        ("compute_90a", ["90a-virtual"]),
        ("9.0a+PTX", ["90a-real", "90a-virtual"]),
        ("10.0", ["100-real"]),
        ("100f", ["100f-real"]),
        ("120f", ["120f-real"]),
        ("12.0f", ["120f-real"]),
        ("120a-virtual", ["120a-virtual"]),
        ("native", ["native"]),
        ("Native", ["native"]),
        ("auto", ["auto"]),
        ("all", ["all"]),
        ("ALL-MAJOR", ["all-major"]),
        ("gfx1100", ["gfx1100"]),
        ("gfx90a:xnack-", ["gfx90a:xnack-"]),
        ("gfx90a:xnack-:sramecc+", ["gfx90a:sramecc+:xnack-"]),
        ("gfx11-generic", ["gfx11-generic"]),
        ("Ampere", ["80-real", "86-real", "86-virtual"]),
        ("Ampere+Tegra", ["87-real"]),
        ("Hopper+PTX", ["90-real", "90-virtual"]),
        ("Blackwell", ["100-real", "103-real", "120-real", "121-real", "121-virtual"]),
    ],
)
def test_every_spelling_of_one_item(spelling: str, meant: list[str]) -> None:
    assert texts(spelling) == meant


@pytest.mark.parametrize(
    ("spelling", "meant"),
    [
        ("rtx 4090", "89-real"),
        ("RTX4090", "89-real"),
        ("NVIDIA GeForce RTX 4090", "89-real"),
        ("geforce-rtx-4090", "89-real"),
        ("rtx_4090", "89-real"),
        ("gtx1080", "61-real"),
        ("GTX 1080 Ti", "61-real"),
        ("h200", "90-real"),
        ("940m", "50-real"),
        ("rx 7900 xtx", "gfx1100"),
        ("MI300X", "gfx942"),
    ],
)
def test_a_product_stands_for_its_architecture(spelling: str, meant: str) -> None:
    assert texts(spelling) == [meant]


@pytest.mark.parametrize(
    "spelling",
    [
        "rtx 4090, gtx 1080, native, 90a",
        "rtx 4090;gtx 1080;native;90a",
        "rtx 4090 gtx 1080 native 90a",
        "'rtx 4090','gtx 1080',native,90a",
        '"RTX 4090" gtx1080; native ,sm_90a',
        ";;rtx4090,  gtx-1080 ,native;9.0a;",
    ],
)
def test_items_of_all_kinds_mix_with_any_separator(spelling: str) -> None:
    assert texts(spelling) == ["89-real", "61-real", "native", "90a-real"]


def test_the_longest_product_name_wins() -> None:
    assert texts("gtx 780 ti 89 titan v 61") == ["35-real", "89-real", "70-real", "61-real"]
    assert texts("RTX 4000 Ada Generation") == ["89-real"]
    assert texts("Quadro RTX 4000") == ["75-real"]


def test_a_name_as_a_driver_reports_it_fits_into_a_list() -> None:
    spelling = "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition 89"
    assert texts(spelling) == ["120-real", "89-real"]


def test_a_repeated_item_counts_once_in_its_first_place() -> None:
    assert texts("89, 61, sm_89, rtx 4090, 8.9+PTX") == ["89-real", "61-real", "89-virtual"]


def test_every_generation_name_of_the_table_parses() -> None:
    for name in families():
        assert parse(name), name


@pytest.mark.parametrize(
    ("spelling", "quoted", "hinted"),
    [
        ("", "empty", "native"),
        ("  \t ", "empty", "native"),
        (" ;, ;''", "empty", "89"),
        ("sm_999", "'sm_999'", "121"),
        ("2.0", "'2.0'", "30"),
        ("88.9", "'88.9'", "known are"),
        ("610", "'610'", "write 61"),
        ("1200", "'1200'", "write 120"),
        ("89a", "'89a'", "of 89 there is 89"),
        ("90f", "'90f'", "90a"),
        ("120x", "'120x'", "120a, 120f"),
        ("sm_89-virtual", "says twice", "89-virtual"),
        ("compute_89-real", "says twice", "89-real"),
        ("compute_89+PTX", "says twice", "89+PTX"),
        ("89-cubin", "'89-cubin'", "name one"),
        ("89,sm_", "'sm_'", ""),
        ("compute_No CUDA devices found.", "'compute_no cuda devices found.'", ""),
        ("gfx1104", "'gfx1104'", "gfx1103"),
        ("gfx", "'gfx'", ""),
        ("gfx1100:xnack+", "'gfx1100:xnack+'", "no feature"),
        ("gfx90a:xnack+:xnack-", "'gfx90a:xnack+:xnack-'", "sramecc and xnack"),
        ("rtx 4095", "'rtx 4095'", "GeForce RTX 4090"),
        ("native, rtx 4095 89", "'rtx 4095'", "GeForce RTX 4090"),
        ("all_major", "'all_major'", "all-major"),
        ("banana", "'banana'", "rtx 4090"),
        ("+PTX", "'+ptx'", "8.9+PTX"),
        ("8٫9", "'8٫9'", ""),  # noqa: RUF001 -- digits alone do not make a number
    ],
)
def test_what_cannot_be_read_is_quoted_and_helped(spelling: str, quoted: str, hinted: str) -> None:
    with pytest.raises(ArchitectureError) as caught:
        parse(spelling)
    assert quoted in caught.value.message
    assert hinted in caught.value.hint
    assert caught.value.hint
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("spelling", "choices"),
    [("rtx 4000", "75 or 89"), ("titan x", "52 or 61"), ("gtx 860m", "30 or 50")],
)
def test_a_name_of_two_chips_is_a_question(spelling: str, choices: str) -> None:
    with pytest.raises(ArchitectureError, match=choices):
        parse(spelling)


def test_a_gpu_newer_than_the_table_is_left_to_the_toolkit() -> None:
    with pytest.raises(ArchitectureError) as caught:
        parse("150")
    assert "native where it is, or all" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "message", "hinted"),
    [
        ("banana", "unknown GPU 'banana'", "for example 'gtx 1080', 6.1 or gfx1100"),
        ("rtx 4095", "unknown GPU 'rtx 4095'", "GeForce RTX 4090"),
        ("6.3", "unknown compute capability '6.3'", "6.1 (TITAN Xp), 6.2 (Jetson TX2)"),
        ("150", "unknown compute capability '150'", "12.1 (GB10); name one, for example"),
        ("890", "unknown compute capability '890'", "write 89"),
        ("gfx1104", "unknown AMD target 'gfx1104'", "gfx1103"),
        ("titan x", "different chips, of architecture 52 or 61", "for example 61;"),
        ("", "'' is not one GPU", "for example 'gtx 1080'"),
        ("native", "'native' is not one GPU", "for example 'gtx 1080'"),
        ("turing", "'turing' is not one GPU", "for example 'gtx 1080'"),
        ("gtx 1080, rtx 4090", "is not one GPU", "for example 'gtx 1080'"),
    ],
)
def test_what_is_not_one_gpu_is_told_in_words_of_gpus(name: str, message: str, hinted: str) -> None:
    with pytest.raises(ArchitectureError) as caught:
        parse_gpu(name)
    assert message in caught.value.message
    assert hinted in caught.value.hint
    assert not re.search(r"native|all|--arch|PTX", caught.value.hint)


@pytest.mark.parametrize(
    ("name", "read"),
    [("gtx 1080", "61-real"), ("8.9", "89-real"), ("6.1 sm_61", "61-real"), ("gfx90a", "gfx90a")],
)
def test_one_gpu(name: str, read: str) -> None:
    assert str(parse_gpu(name)) == read


@given(ITEM)
def test_every_item_reads_back_from_its_text(item: Item) -> None:
    assert parse(str(item)) == (item,)


@given(st.lists(ITEM, min_size=1), st.data())
def test_a_list_reads_back_whatever_the_separators(items: list[Item], data: st.DataObject) -> None:
    text = str(items[0])
    for item in items[1:]:
        text += data.draw(SEPARATOR) + str(item)
    assert parse(text) == tuple(dict.fromkeys(items))


@given(st.one_of(st.text(), st.text("0123456789.smcopute_afgxrvtil-+:;, ptx'\"")))
@example("gfx\x00")
@example("9" * 5000)
@example("rtx " * 3000)
@example("١٢")
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        outcome: str | tuple[Item, ...] = parse(text)
    except ArchitectureError as error:
        outcome = error.hint if len(error.message) < 300 else ""
    assert outcome


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("AMD Radeon RX 7900 XTX", "gfx1100"),
        ("rx 6700 xt", "gfx1031"),
        ("rx 7700s", "gfx1102"),  # of another chip than the 7700
        ("RX 7700", "gfx1101"),
        ("AMD Radeon 780M Graphics", "gfx1103"),
        ("AMD Radeon(TM) 890M Graphics", "gfx1150"),
        ("AMD Instinct MI300X", "gfx942"),
        ("mi50", "gfx906"),
        ("steam deck", "gfx1033"),
    ],
)
def test_amds_products(name: str, target: str) -> None:
    assert parse(name) == (HipTarget(target),)


@pytest.mark.parametrize("name", ["RX 6750 GRE", "Radeon 840M", "vega 8"])
def test_a_name_of_two_of_amds_chips_is_a_question(name: str) -> None:
    with pytest.raises(ArchitectureError, match="different chips"):
        parse(name)
