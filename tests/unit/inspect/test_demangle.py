from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamabuild.inspect.demangle import demangle, family


@pytest.mark.parametrize(
    ("mangled", "readable"),
    [
        ("_Z5plainPfi", "plain"),
        (
            "_Z13mul_mat_vec_qILi1ELi32ELi8E10block_q8_0Li2EXadL_Z17vec_dot_q8_0_q8_1PKvPK10block_q8_1RKiEEEvS1_S1_Pfiii",
            "mul_mat_vec_q<1, 32, 8, block_q8_0, 2, &vec_dot_q8_0_q8_1>",
        ),
        ("_Z9mul_mat_qIL9ggml_type8ELi8ELb1EEvPKc", "mul_mat_q<(ggml_type)8, 8, true>"),
        ("_Z4tmplILin3ELm7ELc65EEvv", "tmpl<-3, 7ul, (char)65>"),
        ("_ZN3foo3BarILi3EE3bazEv", "foo::Bar<3>::baz"),
        ("_ZN12_GLOBAL__N_13fooIfEEvT_", "(anonymous namespace)::foo<float>"),
        ("_Z1fIPKfRVdEvv", "f<float const*, double volatile&>"),
        ("_Z1fIPFvifEEvv", "f<void (*)(int, float)>"),
        ("_Z1fIA4_iPA4_iEvv", "f<int [4], int (*)[4]>"),
        ("_Z1fISt4pairIiS0_IifEEEvv", "f<std::pair<int, std::pair<int, float> > >"),
        ("_Z1fIJifEEvv", "f<int, float>"),
        ("_Z1gI6__halfDF16_Evv", "g<__half, _Float16>"),
        (
            "_Z10k_get_rowsILi32ELi2EXadL_ZN43_INTERNAL_090092fc_12_ggml_cuda_cu_2bf23e1115dequantize_q4_0EPKvliR6float2EEfEvS2_PKiPT2_llmmmmmmmmm",
            "k_get_rows<32, 2, &dequantize_q4_0, float>",
        ),
        ("vec_add", "vec_add"),
        ("_Z", "_Z"),
        ("_Z5pl", "_Z5pl"),
        ("_ZplRK1AS1_", "_ZplRK1AS1_"),
    ],
)
def test_names_of_kernels(mangled, readable):
    assert demangle(mangled) == readable


@pytest.mark.parametrize(
    ("mangled", "name"),
    [
        ("_Z13mul_mat_vec_qILi1E10block_q8_0EvPKv", "mul_mat_vec_q"),
        ("_ZN7cutlass6KernelINS_4gemm6DeviceIfEEEEvT_", "Kernel"),
        ("plain", "plain"),
    ],
)
def test_the_family_is_the_name_alone(mangled, name):
    assert family(mangled) == name


@given(st.text("0123456789ENISTLXJZPRKFAabcdfijlmv_", max_size=200))
def test_any_text_is_answered(text):
    assert isinstance(demangle(f"_Z{text}"), str)
    assert isinstance(family(f"_Z{text}"), str)


def test_a_name_that_doubles_itself_is_left_as_it_is():
    def doubled(times: int) -> str:
        """f<a<int, int>, a<that, that>, …>, each argument twice the one before."""
        digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
        arguments = "".join(f"S0_IS{digits[at]}_S{digits[at]}_E" for at in range(1, times + 1))
        return f"_Z1fI1aIiiE{arguments}EEvv"

    assert demangle(doubled(1)) == "f<a<int, int>, a<a<int, int>, a<int, int> > >"
    assert len(demangle(doubled(10))) > 2**10
    assert demangle(doubled(25)) == doubled(25)
    repeated = doubled(14).replace("EEvv", "SE_" * 1000 + "EEvv")
    assert demangle(repeated) == repeated


@pytest.mark.parametrize(
    "deep",
    ["_Z1fI" + "P" * 5000 + "iEvv", "_Z" + "Z" * 5000, "_Z1f" + "I1a" * 4000, "_Z1fI" + "J" * 5000],
)
def test_nesting_without_end_is_left_as_it_is(deep):
    assert demangle(deep) == deep
    assert family(deep)
