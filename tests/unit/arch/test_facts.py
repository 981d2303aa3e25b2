"""The tables, and the sentences made from them."""

from __future__ import annotations

import pytest

from llamabuild.arch import (
    CudaArch,
    compilers,
    describe,
    known_cuda,
    parse,
    product_archs,
)
from llamabuild.arch.facts import hip_features
from llamabuild.arch.names import _tables as name_tables
from llamabuild.arch.names import similar
from llamabuild.errors import ArchitectureError

CUDA_13_0 = (
    "75 80 86 87 88 89 90 90a 100 100a 100f 103 103a 103f 110 110a 110f 120 120a 120f 121 121a 121f"
)


@pytest.mark.parametrize(
    ("version", "compiled"),
    [
        # `nvcc --list-gpu-code` and the allowed values of `nvcc --help`.
        ((11, 8), "35 37 50 52 53 60 61 62 70 72 75 80 86 87 89 90"),
        ((13, 0), CUDA_13_0),
    ],
)
def test_the_table_says_what_two_real_toolkits_say(version: tuple[int, int], compiled: str) -> None:
    found = [
        arch.name
        for arch in known_cuda()
        if (toolkits := compilers([arch])) and version in toolkits
    ]
    assert " ".join(found) == compiled


def test_one_toolkit_for_several_architectures() -> None:
    both = compilers([CudaArch(61), CudaArch(120, virtual=True)])
    assert both is not None
    assert (both.first, both.dropped) == ((12, 8), (13, 0))
    assert (12, 7) not in both
    assert (12, 9) in both
    assert (13, 0) not in both
    assert str(both) == "CUDA 12.8 or newer, but older than 13.0"


@pytest.mark.parametrize("numbers", [(61, 110), (35, 90, 121), (89, 777), ()])
def test_no_toolkit_for_several_architectures(numbers: tuple[int, ...]) -> None:
    assert compilers([CudaArch(number) for number in numbers]) is None


@pytest.mark.parametrize(
    ("arch", "sentence"),
    [
        (CudaArch(121), "12.1 needs CUDA 12.9 or newer"),
        (CudaArch(90, "a"), "9.0a needs CUDA 12.0 or newer"),
        (
            CudaArch(61),
            "6.1 needs CUDA 8.0 or newer, but older than 13.0, which dropped everything below 7.5",
        ),
        (
            CudaArch(35, virtual=True),
            "3.5 needs CUDA 5.0 or newer, but older than 12.0, which dropped everything below 5.0",
        ),
        (
            CudaArch(101, "f"),
            "10.1f needs CUDA 12.9 or newer, but older than 13.0, which calls it 11.0f",
        ),
        (CudaArch(777), "77.7 is in no CUDA release known here"),
    ],
)
def test_the_sentence_says_what_to_install_and_why(arch: CudaArch, sentence: str) -> None:
    assert describe(arch) == sentence


def test_known_architectures_are_in_numeric_order() -> None:
    names = [arch.name for arch in known_cuda()]
    assert names.index("90") < names.index("90a") < names.index("100") < names.index("120")


@pytest.mark.parametrize(
    ("arch", "text", "code", "gencode", "capability"),
    [
        (CudaArch(89), "89-real", "sm_89", "arch=compute_89,code=sm_89", "8.9"),
        (
            CudaArch(61, virtual=True),
            "61-virtual",
            "compute_61",
            "arch=compute_61,code=compute_61",
            "6.1",
        ),
        (CudaArch(120, "a"), "120a-real", "sm_120a", "arch=compute_120a,code=sm_120a", "12.0a"),
    ],
)
def test_the_names_of_an_architecture(
    arch: CudaArch, text: str, code: str, gencode: str, capability: str
) -> None:
    assert (str(arch), arch.code, arch.gencode(), arch.capability) == (
        text,
        code,
        gencode,
        capability,
    )
    assert CudaArch.from_code(arch.code) == arch


@pytest.mark.parametrize("code", ["", "89", "sm_", "sm_9", "sm_089", "sm_89x", "lto_89", "sm_89 "])
def test_a_name_no_compiler_uses_is_refused(code: str) -> None:
    with pytest.raises(ArchitectureError):
        CudaArch.from_code(code)


def test_every_product_stands_under_a_known_architecture() -> None:
    known = {arch.name for arch in known_cuda()} | set(hip_features())
    assert set(name_tables()) <= known


def test_every_product_of_the_table_is_found_by_its_own_name() -> None:
    for arch, names in name_tables().items():
        for name in names:
            assert arch in product_archs(name), name


def test_a_product_name_alone_is_never_taken_for_an_architecture() -> None:
    for arch, names in name_tables().items():
        for name in names:
            if product_archs(name) == (arch,):
                (item,) = parse(name)
                assert str(item).removesuffix("-real") == arch, name


@pytest.mark.parametrize(
    ("reported", "arch"),
    [
        ("NVIDIA GeForce RTX 3080 Laptop GPU", "86"),
        ("GeForce GTX 1650 with Max-Q Design", "75"),
        ("GeForce GTX 1060 6GB", "61"),
        ("Tesla V100-SXM2-16GB", "70"),
        ("NVIDIA A100-SXM4-80GB", "80"),
        ("NVIDIA A100 80GB PCIe", "80"),
        ("NVIDIA H100 80GB HBM3", "90"),
        ("NVIDIA GH200 480GB", "90"),
        ("NVIDIA RTX 6000 Ada Generation", "89"),
        ("NVIDIA RTX A2000 12GB", "86"),
        ("Orin (nvgpu)", "87"),
        ("NVIDIA GB10", "121"),
        ("P104-100", "61"),
        ("GeForce GTX TITAN X", "52"),
        ("NVIDIA TITAN X (Pascal)", "61"),
        ("AMD Radeon RX 7900 XTX", "gfx1100"),
        ("AMD Radeon Pro W7900", "gfx1100"),
    ],
)
def test_names_as_drivers_report_them(reported: str, arch: str) -> None:
    assert product_archs(reported) == (arch,)


def test_a_professional_card_is_not_confused_with_its_namesakes() -> None:
    assert product_archs("Quadro RTX 6000") == ("75",)
    assert product_archs("RTX A6000") == ("86",)
    assert product_archs("RTX 6000 Ada") == ("89",)
    assert product_archs("RTX PRO 6000 Blackwell") == ("120",)
    assert product_archs("RTX 6000") == ("75", "89")


def test_a_mistyped_name_finds_its_likes() -> None:
    assert "GeForce RTX 4090" in similar("rtx 4091")
    assert similar("zzzzzzzzzzzz") == ()
