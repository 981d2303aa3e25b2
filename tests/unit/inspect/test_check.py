from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from llamabuild.inspect import check

ALLOWED = ("libc.so.*", "libcuda.so.1")


@pytest.fixture
def problems(forge):
    def ask(content, archs=("61-real",), exports=("ggml_cuda_link",), allowed=ALLOWED):
        return check(forge.read(content), archs=archs, exports=exports, allowed_needed=allowed)

    return ask


@pytest.fixture
def module(forge):
    def make(*labels, **library):
        kinds = {
            "real": (2, forge.cubin(["k"])),
            "virtual": (1, b".version 7.8\n.target sm_61\n.entry k()\n{ ret; }"),
        }
        entries = []
        for label in labels:
            arch, kind = label.split("-")
            code, payload = kinds[kind]
            entries.append(forge.entry(payload, kind=code, arch=int(arch)))
        settings = {"exported": ("ggml_cuda_link",), "needed": ("libc.so.6",)} | library
        return forge.library(forge.container(*entries), **settings)

    return make


def test_a_good_module_has_no_problem(problems, module):
    assert problems(module("61-real", "90-virtual"), archs=("90-virtual", "61-real")) == ()


def test_architectures_must_be_those_asked_for_both_ways(problems, module):
    missing, extra = problems(module("60-real", "90-real"), archs=("61-real", "90-real"))
    assert "61-real" in missing
    assert "asked for and is not inside" in missing
    assert "60-real" in extra
    assert "90-real" not in missing + extra


def test_machine_code_and_ptx_of_one_number_are_two_things(problems, module):
    assert len(problems(module("61-virtual"), archs=("61-real",))) == 2


def test_no_gpu_code_at_all(problems, forge):
    assert problems(forge.library(exported=("ggml_cuda_link",))) == ("it holds no GPU code",)


def test_a_translation_unit_that_lacks_an_architecture(problems, forge):
    whole = forge.container(
        *(forge.entry(forge.cubin(["a"]), arch=arch) for arch in (61, 90)),
    )
    half = forge.container(forge.entry(forge.cubin(["b"]), arch=90))
    stand_in = forge.container(forge.entry(forge.cubin([]), arch=61))
    (problem,) = problems(
        forge.library(stand_in + whole + half, exported=("ggml_cuda_link",)),
        archs=("61-real", "90-real"),
    )
    assert "1 of its 2 translation units" in problem
    assert "61-real" in problem


def test_a_symbol_that_the_host_looks_up_is_missing(problems, module):
    (problem,) = problems(module("61-real", exported=("ggml_cuda_lunk",)))
    assert "ggml_cuda_link" in problem


def test_a_library_that_not_every_machine_has(problems, module):
    (problem,) = problems(module("61-real", needed=("libc.so.6", "libcublas.so.12")))
    assert "libcublas.so.12" in problem


def test_driver_functions_without_the_driver_among_the_needed(problems, module):
    calls = ("cuDeviceGet", "cudaMalloc", "cublasCreate_v2")
    (problem,) = problems(module("61-real", undefined=calls))
    assert "cuDeviceGet" in problem
    assert "libcuda.so.1" in problem
    assert "cudaMalloc" not in problem
    assert "cublasCreate" not in problem
    named = module("61-real", undefined=calls, needed=("libc.so.6", "libcuda.so.1"))
    assert problems(named) == ()


def test_ggml_functions_that_nobody_lends(problems, module):
    (problem,) = problems(module("61-real", undefined=("ggml_nelements", "my_ggml_thing")))
    assert "ggml_nelements" in problem
    assert "my_ggml_thing" not in problem
    lent = module("61-real", undefined=("ggml_nelements",), needed=("libggml-base.so.0",))
    assert problems(lent, allowed=(*ALLOWED, "libggml-base.so*")) == ()


def test_it_must_not_look_for_libraries_where_it_was_built(forge, module):
    read = forge.read(module("61-real"))

    def found(*folders: str) -> Any:
        moved = replace(read, runpath=folders)
        return check(moved, archs=("61-real",), exports=(), allowed_needed=ALLOWED)

    assert found("$ORIGIN", "$ORIGIN/../lib") == ()
    (problem,) = found("$ORIGIN", "/home/builder/lib")
    assert "/home/builder/lib" in problem
    assert len(found("")) == 1  # an empty one is the working folder of whoever loads it
