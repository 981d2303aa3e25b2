"""Our flags, said in the words of each source."""

from __future__ import annotations

from typing import Any

import pytest

from llamabuild.source import Effect, SourceTree, flag_effects, llamafile, required_symbols

VEC = "ggml/src/ggml-cuda/template-instances/fattn-vec-instance"


def classic(text: bytes) -> SourceTree:
    """A llamafile with ``text`` in its ggml-cuda.cu."""
    whole = b"bool ggml_cuda_link(\n" + text
    fields = llamafile.describe({"ggml-cuda.cu": whole}, lambda member: None, "it")
    return SourceTree(root=None, files=("ggml-cuda.cu",), digest="", origin="", **fields)  # type: ignore[arg-type]


def effect(text: bytes, flag: str) -> Effect:
    return flag_effects(classic(text), "classic")[flag]


FLASH = b"case GGML_OP_FLASH_ATTN_EXT:\n"
NEW = b"GGML_CUDA_NO_PEER_COPY cuda_bf16.h\n"  # words of 0.8.5 and later
SMALL = b"#ifndef GGML_MINIMIZE_CODE_SIZE\n        case GGML_OP_FLASH_ATTN_EXT:\n#endif\n"
SMALLER = b"#ifndef GGML_MINIMIZE_CODE_SIZE\n        case GGML_TYPE_IQ2_XXS:\n#endif\n"


def test_every_flag_has_an_answer_for_every_source(bench: Any, samples: Any) -> None:
    modern = bench.open(samples.write(bench.cwd / "t", samples.MODERN))
    old = bench.open(samples.write(bench.cwd / "o", samples.ONE_FILE))
    answers = [flag_effects(classic(b""), "classic"), flag_effects(old, "self-contained")]
    answers += [flag_effects(modern, flavor) for flavor in modern.flavors]
    flags = "force-mmq force-cublas blas=tiny blas=cublas blas=hipblas hip no-iq fa=off fa=default"
    expected = {*flags.split(), "fa=all", "fast-math", "no-fast-math", "compress"}
    assert all(set(answer) == expected for answer in answers)


def test_force_mmq_in_every_flavor(bench: Any, samples: Any) -> None:
    modern = bench.open(samples.write(bench.cwd / "t", samples.MODERN))
    define = Effect(defines=("GGML_CUDA_FORCE_MMQ",))
    assert effect(b"#if defined(GGML_CUDA_FORCE_MMQ)\n", "force-mmq") == define
    assert flag_effects(modern, "self-contained")["force-mmq"] == define
    option = Effect(options=("GGML_CUDA_FORCE_MMQ=ON",))
    assert flag_effects(modern, "backend-dl")["force-mmq"] == option


def test_a_release_that_forces_it_anyway_says_so() -> None:
    text = b"#ifdef GGML_USE_TINYBLAS\n#define GGML_CUDA_FORCE_MMQ // wanted\n#endif\n"
    answer = effect(text, "force-mmq")
    assert answer.defines == ("GGML_CUDA_FORCE_MMQ",)
    assert "anyway" in answer.note
    commented = text.replace(b"#define", b"// #define")
    assert effect(commented, "force-mmq").note == ""


def test_a_longer_word_is_another_word() -> None:
    assert effect(b"GGML_CUDA_FORCE_MMQ_NOT\n", "force-mmq").unsupported


def test_what_a_source_cannot_do_has_a_reason() -> None:
    for flag in ("force-mmq", "force-cublas", "blas=tiny", "no-iq", "fa=all"):
        answer = effect(b"", flag)
        assert answer.unsupported
        assert answer == Effect(unsupported=answer.unsupported)


def test_the_blas_of_a_llamafile() -> None:
    text = b"#ifdef GGML_USE_TINYBLAS\n"
    assert effect(text, "blas=tiny") == Effect(defines=("GGML_USE_TINYBLAS",))
    cublas = Effect(defines=("GGML_USE_CUBLAS",), libraries=("cublas",))
    assert effect(text, "blas=cublas") == cublas


def test_the_blas_of_a_tree(bench: Any, samples: Any) -> None:
    modern = bench.open(samples.write(bench.cwd / "t", samples.MODERN))
    for flavor in modern.flavors:
        answers = flag_effects(modern, flavor)
        assert answers["blas=cublas"] == Effect(libraries=("cublas",))
        assert "llamafile" in answers["blas=tiny"].unsupported


def test_code_size_without_flash_attention_only() -> None:
    # 0.8.2 to 0.8.4: the switch is there, and the loader does not use it.
    assert effect(SMALL, "fa=off") == Effect(defines=("GGML_MINIMIZE_CODE_SIZE",))
    assert effect(SMALL, "fa=default") == Effect()
    assert effect(SMALL, "fa=all") == Effect()
    assert effect(SMALL, "no-iq").unsupported


def test_code_size_as_the_loader_wants_it() -> None:
    # 0.8.7 to 0.8.13: without flash attention, unless the user asks.
    answer = effect(NEW + SMALL, "fa=default")
    assert answer.defines == ("GGML_MINIMIZE_CODE_SIZE",)
    assert "--fa all" in answer.note
    assert effect(NEW + SMALL, "no-iq").unsupported
    assert effect(NEW + SMALL, "fa=all").defines == ()


def test_code_size_without_iq_types_too() -> None:
    # 0.8.14 and later.
    text = NEW + SMALL + SMALLER
    assert effect(text, "no-iq").defines == ("GGML_MINIMIZE_CODE_SIZE",)
    assert "flash attention" in effect(text, "no-iq").note
    assert "IQ" in effect(text, "fa=off").note
    assert "IQ" in effect(text, "fa=default").note
    quants = effect(text + b"#ifdef GGML_CUDA_FA_ALL_QUANTS\n", "fa=all")
    assert quants.defines == ("GGML_CUDA_FA_ALL_QUANTS",)


def test_no_flash_attention_yet() -> None:
    assert effect(b"", "fa=off") == Effect()
    assert effect(b"", "fa=default") == Effect()
    assert "has no flash attention" in effect(b"", "fa=all").unsupported


def test_flash_attention_that_cannot_be_left_out() -> None:
    # 0.8.5 and 0.8.6.
    assert effect(NEW + FLASH, "fa=off").unsupported
    assert effect(NEW + FLASH, "fa=default") == Effect()


def test_every_pair_of_types_has_its_define(bench: Any, samples: Any) -> None:
    modern = bench.open(samples.write(bench.cwd / "t", samples.MODERN))
    answers = flag_effects(modern, "self-contained")
    pairs = dict(define.split("=") for define in answers["fa=default"].defines)
    assert len(pairs) == 49
    assert {name for name, value in pairs.items() if value == "1"} == {
        "GGML_CUDA_FA_F16_F16",
        "GGML_CUDA_FA_BF16_BF16",
        "GGML_CUDA_FA_Q4_0_Q4_0",
        "GGML_CUDA_FA_Q8_0_Q8_0",
    }
    assert all(define.endswith("=1") for define in answers["fa=all"].defines)
    off = answers["fa=off"].defines
    assert off == ("GGML_CUDA_NO_FA", *answers["fa=default"].defines)


def test_unusual_pairs_are_left_out_by_default(bench: Any, samples: Any) -> None:
    modern = bench.open(samples.write(bench.cwd / "t", samples.MODERN))
    answers = flag_effects(modern, "self-contained")
    assert answers["fa=default"].drop == (f"{VEC}-q8_0-q4_0.cu",)
    assert answers["fa=all"].drop == ()
    assert f"{VEC}-f16-f16.cu" in modern.device


def test_names_of_instances_before_2026(bench: Any, samples: Any) -> None:
    folder = "ggml-cuda/template-instances/fattn-vec-f16-instance-hs128"
    contents = {
        **samples.ONE_FILE,
        "ggml-cuda/fattn.cu": FLASH + b"#ifdef GGML_CUDA_FA_ALL_QUANTS\n#endif\n",
        f"{folder}-q4_0-q4_0.cu": b"",
        f"{folder}-f16-q4_0.cu": b"",
    }
    answers = flag_effects(bench.open(samples.write(bench.cwd / "t", contents)), "self-contained")
    assert answers["fa=default"] == Effect(drop=(f"{folder}-f16-q4_0.cu",))
    assert answers["fa=all"] == Effect(defines=("GGML_CUDA_FA_ALL_QUANTS",))
    assert answers["fa=off"].unsupported


def test_flash_attention_by_cmake(bench: Any, samples: Any) -> None:
    modern = bench.open(samples.write(bench.cwd / "t", samples.MODERN))
    answers = flag_effects(modern, "backend-dl")
    assert answers["fa=off"] == Effect(options=("GGML_CUDA_FA=OFF",))
    assert answers["fa=default"] == Effect()
    assert answers["fa=all"] == Effect(options=("GGML_CUDA_FA_QUANTS=all",))


def test_fast_math_and_compression(bench: Any, samples: Any) -> None:
    modern = bench.open(samples.write(bench.cwd / "t", samples.MODERN))
    own, cmake = (flag_effects(modern, flavor) for flavor in ("self-contained", "backend-dl"))
    assert own["fast-math"].nvcc == ("--use_fast_math",)
    assert own["fast-math"].clang == ("-fno-hip-fp32-correctly-rounded-divide-sqrt",)
    assert own["no-fast-math"] == Effect()
    assert cmake["fast-math"] == Effect()
    assert "always" in cmake["no-fast-math"].unsupported
    assert own["compress"] == Effect(nvcc=("--compress-mode=",))
    assert cmake["compress"] == Effect(options=("GGML_CUDA_COMPRESSION_MODE=",))


def test_llamafile_010(bench: Any, samples: Any) -> None:
    inner = {f"llama.cpp/{name}": data for name, data in samples.MODERN.items()}
    inner["llama.cpp/ggml/src/ggml-cuda/vendors/cuda.h"] = b"#ifdef GGML_USE_TINYBLAS\n#endif\n"
    inner["llama.cpp/ggml/src/ggml-cuda/mmq.cu"] = b"#ifndef GGML_CUDA_NO_IQ_QUANTS\n#endif\n"
    own = {"llamafile/version.h": b"", "llamafile/tinyblas.cu": b""}
    tree = bench.open(samples.write(bench.cwd / "t", {**own, **inner}))
    answers = flag_effects(tree, "self-contained")
    assert answers["blas=tiny"] == Effect(
        defines=("GGML_USE_TINYBLAS",), add=("llamafile/tinyblas.cu",)
    )
    assert answers["blas=cublas"].defines == ("GGML_USE_CUBLAS",)
    instances = "llama.cpp/ggml/src/ggml-cuda/template-instances"
    assert answers["no-iq"] == Effect(
        defines=("GGML_CUDA_NO_IQ_QUANTS",), drop=(f"{instances}/mmq-instance-iq2_s.cu",)
    )


@pytest.mark.parametrize(
    ("flavor", "symbols"),
    [
        ("backend-dl", {"ggml_backend_init"}),
        (
            "self-contained",
            {
                "ggml_backend_cuda_init",
                "ggml_backend_cuda_reg",
                "ggml_backend_cuda_get_device_count",
            },
        ),
    ],
)
def test_symbols_that_a_host_looks_up(
    bench: Any, samples: Any, flavor: str, symbols: set[str]
) -> None:
    modern = bench.open(samples.write(bench.cwd / "t", samples.MODERN))
    assert set(required_symbols(modern, flavor)) == symbols


def test_symbols_of_an_old_tree_and_of_a_llamafile(bench: Any, samples: Any) -> None:
    old = bench.open(samples.write(bench.cwd / "t", samples.ONE_FILE))
    assert set(required_symbols(old, "self-contained")) == {
        "ggml_backend_cuda_init",
        "ggml_backend_cuda_get_device_count",
    }
    assert "ggml_cuda_link" in required_symbols(classic(b""), "classic")
