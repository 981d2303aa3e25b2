"""Checkouts of every era: where ggml lies, what belongs to it, what can be built."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from llamabuild.errors import SourceError

LLAMAFILE_010 = {
    "llamafile/version.h": (
        b"#define LLAMAFILE_MAJOR 0\n#define LLAMAFILE_MINOR 10\n#define LLAMAFILE_PATCH 3\n"
    ),
    "llamafile/tinyblas.cu": b"",
    "llamafile/tinyblas.h": b"",
    "llamafile/tinyblas-compat.h": b"",
    "llamafile/tinyblas_cpu.h": b"",
    "Makefile": b"setup:\n",
}


def patched(samples: Any) -> dict[str, bytes]:
    """A checkout of llamafile 0.10 after ``make setup``."""
    inner = {f"llama.cpp/{name}": data for name, data in samples.MODERN.items()}
    inner["llama.cpp/ggml/src/ggml-cuda/vendors/cuda.h"] = (
        b"#ifdef GGML_USE_TINYBLAS\n#include <tinyblas.h>\n#endif\n"
    )
    inner["llama.cpp/ggml/src/ggml-cuda/mmq.cu"] = b"#ifndef GGML_CUDA_NO_IQ_QUANTS\n#endif\n"
    return {**LLAMAFILE_010, **inner}


def test_the_one_file_era(bench: Any, samples: Any) -> None:
    tree = bench.open(samples.write(bench.cwd / "llama.cpp", samples.ONE_FILE))
    assert (tree.kind, tree.layout, tree.flavors) == ("llama.cpp", "one-file", ("self-contained",))
    assert tree.root == bench.cwd / "llama.cpp"
    assert tree.core == ("ggml.c", "ggml-alloc.c", "ggml-backend.c", "ggml-quants.c")
    assert tree.device == ("ggml-cuda.cu",)
    assert tree.includes == (".",)
    assert tree.defines == ("NDEBUG", "GGML_USE_CUBLAS")
    assert tree.levels == (61,)
    assert tree.ggml_cmake is None
    assert set(tree.files) == {*tree.core, *tree.device, "ggml.h", "ggml-impl.h", "ggml-cuda.h"}


def test_other_cuda_files_beside_it_are_not_its_own(bench: Any, samples: Any) -> None:
    contents = {**samples.ONE_FILE, "experiment.cu": b"", "ggml-experiment.cu": b""}
    assert bench.open(samples.write(bench.cwd / "t", contents)).device == ("ggml-cuda.cu",)


def test_ggmls_own_repository_of_that_era(bench: Any, samples: Any) -> None:
    contents = {
        ("include/ggml/" if name == "ggml.h" else "src/") + name: data
        for name, data in samples.ONE_FILE.items()
        if name.startswith("ggml")
    }
    tree = bench.open(samples.write(bench.cwd / "ggml", contents))
    assert (tree.kind, tree.layout) == ("ggml", "one-file")
    assert tree.includes == ("src", "include", "include/ggml")
    assert tree.device == ("src/ggml-cuda.cu",)
    assert tree.core[0] == "src/ggml.c"


def test_the_era_with_a_folder_beside_the_file(bench: Any, samples: Any) -> None:
    contents = {
        **samples.ONE_FILE,
        "ggml-cuda/common.cuh": b"#if __CUDA_ARCH__ >= 700\n#endif\n",
        "ggml-cuda/mmq.cu": b"",
        "ggml-cuda/template-instances/mmq-instance-q8_0.cu": b"",
    }
    tree = bench.open(samples.write(bench.cwd / "t", contents))
    assert (tree.layout, tree.flavors) == ("split", ("self-contained",))
    assert tree.device == (
        "ggml-cuda.cu",
        "ggml-cuda/mmq.cu",
        "ggml-cuda/template-instances/mmq-instance-q8_0.cu",
    )
    assert tree.levels == (61, 70)


def test_the_modern_era(bench: Any, samples: Any) -> None:
    tree = bench.open(samples.write(bench.cwd / "t", samples.MODERN))
    assert (tree.kind, tree.layout) == ("llama.cpp", "split")
    assert tree.flavors == ("backend-dl", "self-contained")
    assert (tree.ggml_cmake, tree.ggml_version) == ("ggml", "0.25.3")
    assert tree.generated == (("ggml/src/ggml-version.h", '#define GGML_VERSION "0.25.3"\n'),)
    assert tree.includes == ("ggml/src", "ggml/include")
    assert tree.core == tuple(
        f"ggml/src/{name}"
        for name in (
            "ggml.c",
            "ggml-alloc.c",
            "ggml-backend.cpp",
            "ggml-quants.c",
            "ggml-threading.cpp",
        )
    )
    assert len(tree.device) == 8
    assert tree.defines == ("NDEBUG",)
    assert tree.nvcc_flags == ("--extended-lambda",)
    assert tree.levels == (61, 75, 120)
    assert tree.declared == (
        "ggml_backend_cuda_get_device_count",
        "ggml_backend_cuda_init",
        "ggml_backend_cuda_reg",
    )


def test_versions_that_the_core_wants_to_be_told(bench: Any, samples: Any) -> None:
    contents = {**samples.MODERN, "ggml/src/ggml.c": b"return GGML_VERSION; return GGML_COMMIT;\n"}
    tree = bench.open(samples.write(bench.cwd / "t", contents))
    assert set(tree.defines) == {"NDEBUG", 'GGML_VERSION="0.25.3"', 'GGML_COMMIT="unknown"'}
    contents["ggml/src/ggml.c"] += b'#include "ggml-version.h"\n'
    tree = bench.open(samples.write(bench.cwd / "t", contents))
    assert tree.defines == ("NDEBUG",)


def test_what_its_own_cmake_reads_is_among_the_files(bench: Any, samples: Any) -> None:
    tree = bench.open(samples.write(bench.cwd / "t", samples.MODERN))
    assert {
        "ggml/CMakeLists.txt",
        "ggml/cmake/ggml-config.cmake.in",
        "ggml/src/CMakeLists.txt",
        "ggml/src/ggml-backend-reg.cpp",
        "ggml/src/ggml-cpu/ggml-cpu.c",
        "ggml/src/ggml-cuda/CMakeLists.txt",
    } <= set(tree.files)


def test_what_makes_no_difference_is_not(bench: Any, samples: Any) -> None:
    root = samples.write(bench.cwd / "t", samples.MODERN)
    before = bench.open(root)
    assert not any("vulkan" in name or name.startswith("src/") for name in before.files)
    samples.write(
        root,
        {
            "models/a.gguf": b"x",
            ".git/index": b"x",
            "build/ggml/src/ggml-cuda/x.cu": b"x",
            "ggml/src/ggml-cuda/mmq.cu.orig": b"x",
            "ggml/src/ggml-vulkan/more.cpp": b"x",
            "src/llama.cpp": b"changed",
        },
    )
    os.utime(root / "ggml/src/ggml.c", (1, 1))
    assert bench.open(root).digest == before.digest


@pytest.mark.parametrize(
    "name",
    ["ggml/src/ggml-cuda/common.cuh", "ggml/src/ggml-quants.c", "ggml/CMakeLists.txt"],
)
def test_what_makes_a_difference_is_noticed(bench: Any, samples: Any, name: str) -> None:
    root = samples.write(bench.cwd / "t", samples.MODERN)
    before = bench.open(root)
    (root / name).write_bytes((root / name).read_bytes() + b"# changed\n")
    assert bench.open(root).digest != before.digest


def test_a_new_file_is_noticed(bench: Any, samples: Any) -> None:
    root = samples.write(bench.cwd / "t", samples.MODERN)
    before = bench.open(root)
    samples.write(root, {"ggml/src/ggml-cuda/new.cu": b"__global__ void f() {}\n"})
    after = bench.open(root)
    assert set(after.device) - set(before.device) == {"ggml/src/ggml-cuda/new.cu"}
    assert after.digest != before.digest


def test_the_same_tree_elsewhere_has_the_same_digest(bench: Any, samples: Any) -> None:
    one = bench.open(samples.write(bench.cwd / "one", samples.MODERN))
    two = bench.open(samples.write(bench.cwd / "deeper/two", samples.MODERN))
    assert (one.digest, one.files) == (two.digest, two.files)


@pytest.mark.parametrize("form", ["tar.gz", "tar.xz", "tar", "zip"])
def test_an_archive_is_the_same_source_as_the_checkout(bench: Any, samples: Any, form: str) -> None:
    if form == "zip":
        data = samples.zipped({f"llama.cpp-b1/{n}": d for n, d in samples.MODERN.items()})
    else:
        mode = {"tar.gz": "w:gz", "tar.xz": "w:xz", "tar": "w"}[form]
        data = samples.tarred(samples.MODERN, mode)
    tree = bench.open(bench.file(f"b1.{form}", data))
    checkout = bench.open(samples.write(bench.cwd / "t", samples.MODERN))
    assert tree.digest == checkout.digest
    assert tree.root == bench.scratch / tree.digest
    present = {p.relative_to(tree.root).as_posix() for p in tree.root.rglob("*") if p.is_file()}
    assert present == set(tree.files)
    assert bench.left_over() == []


def test_llama_cpp_python(bench: Any, samples: Any) -> None:
    contents = {
        "PKG-INFO": b"Metadata-Version: 2.1\nName: llama_cpp_python\nVersion: 0.3.36\n",
        **{f"vendor/llama.cpp/{name}": data for name, data in samples.MODERN.items()},
    }
    tree = bench.open(bench.file("llama_cpp_python-0.3.36.tar.gz", samples.tarred(contents)))
    assert (tree.kind, tree.version) == ("llama-cpp-python", "0.3.36")
    assert tree.ggml_cmake == "vendor/llama.cpp/ggml"


def test_whisper_cpp(bench: Any, samples: Any) -> None:
    contents = {name: data for name, data in samples.MODERN.items() if name.startswith("ggml/")}
    contents["include/whisper.h"] = b""
    contents["CMakeLists.txt"] = b'project("whisper.cpp" VERSION 1.7.4)\n'
    tree = bench.open(samples.write(bench.cwd / "w", contents))
    assert (tree.kind, tree.version) == ("whisper.cpp", "1.7.4")


def test_llamafile_010_set_up(bench: Any, samples: Any) -> None:
    tree = bench.open(samples.write(bench.cwd / "llamafile", patched(samples)))
    assert (tree.kind, tree.version) == ("llamafile", "0.10.3")
    assert tree.flavors == ("self-contained",)
    assert tree.includes[0] == "llamafile"
    assert {"llamafile/tinyblas.cu", "llamafile/tinyblas-compat.h"} <= set(tree.files)
    assert "llamafile/tinyblas_cpu.h" not in tree.files
    assert tree.defines == ("NDEBUG", "GGML_BUILD=1", "GGML_SHARED=1", "GGML_MULTIPLATFORM")
    assert tree.ggml_cmake is None
    assert tree.recipe is None


def test_llamafile_010_not_set_up(bench: Any, samples: Any) -> None:
    contents = patched(samples) | {"llama.cpp/ggml/src/ggml-cuda/vendors/cuda.h": b""}
    with pytest.raises(SourceError, match="patches") as caught:
        bench.open(samples.write(bench.cwd / "llamafile", contents))
    assert "make setup" in caught.value.hint


def test_a_submodule_that_was_not_checked_out(bench: Any, samples: Any) -> None:
    root = samples.write(bench.cwd / "w", {**LLAMAFILE_010})
    (root / "llama.cpp").mkdir()
    with pytest.raises(SourceError, match="is empty") as caught:
        bench.open(root)
    assert "submodule" in caught.value.hint


def test_a_tree_without_cuda_sources(bench: Any, samples: Any) -> None:
    contents = {n: d for n, d in samples.MODERN.items() if "ggml-cuda/" not in n}
    with pytest.raises(SourceError, match="not its CUDA code") as caught:
        bench.open(samples.write(bench.cwd / "t", contents))
    assert caught.value.exit_code == 5


def test_a_folder_too_deep_in_the_tree(bench: Any, samples: Any) -> None:
    root = samples.write(bench.cwd / "t", samples.MODERN)
    with pytest.raises(SourceError, match=r"not its header ggml\.h") as caught:
        bench.open(root / "ggml/src")
    assert str(root / "ggml") in caught.value.hint


def test_ggml_inside_another_tree_is_a_source_too(bench: Any, samples: Any) -> None:
    root = samples.write(bench.cwd / "t", samples.MODERN)
    tree = bench.open(root / "ggml")
    assert (tree.kind, tree.version, tree.ggml_cmake) == ("ggml", "0.25.3", ".")


def test_a_folder_with_nothing_of_the_kind(bench: Any) -> None:
    with pytest.raises(SourceError, match="no CUDA sources") as caught:
        bench.open(bench.cwd)
    assert "checkout" in caught.value.hint


def test_a_tree_older_than_the_backend_interface(bench: Any, samples: Any) -> None:
    contents = {**samples.ONE_FILE, "ggml-cuda.cu": b"void ggml_init_cublas(void);\n"}
    with pytest.raises(SourceError, match="older than ggml's backend interface"):
        bench.open(samples.write(bench.cwd / "t", contents))


def test_a_folder_that_cannot_be_listed(
    bench: Any, samples: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = samples.write(bench.cwd / "t", samples.MODERN)

    def refuse(path: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("llamabuild.source.trees.os.scandir", refuse)
    with pytest.raises(SourceError, match="Permission denied"):
        bench.open(root)


COMMIT = "1234567890abcdef1234567890abcdef12345678"
OTHER = "fedcba0987654321fedcba0987654321fedcba09"


@pytest.mark.parametrize(
    ("git", "version"),
    [
        ({"HEAD": COMMIT}, "1234567"),
        ({"HEAD": "ref: refs/heads/master", "refs/heads/master": COMMIT}, "1234567"),
        ({"HEAD": "ref: refs/heads/m", "packed-refs": f"{COMMIT} refs/heads/m\n"}, "1234567"),
        ({"HEAD": COMMIT, "refs/tags/b9747": COMMIT}, "b9747"),
        ({"HEAD": COMMIT, "packed-refs": f"# pack\n{COMMIT} refs/tags/b1\n"}, "b1"),
        (
            {"HEAD": COMMIT, "packed-refs": f"{OTHER} refs/tags/v2\n^{COMMIT}\n"},
            "v2",
        ),
        ({"HEAD": "ref: refs/heads/unborn"}, None),
        ({"HEAD": "garbage"}, None),
        ({}, None),
    ],
)
def test_the_commit_checked_out_is_the_version(
    bench: Any, samples: Any, git: dict[str, str], version: str | None
) -> None:
    root = samples.write(bench.cwd / "t", samples.MODERN)
    samples.write(root / ".git", {name: text.encode() for name, text in git.items()})
    assert bench.open(root).version == version


def test_a_second_work_tree_knows_its_version(bench: Any, samples: Any) -> None:
    root = samples.write(bench.cwd / "t", samples.MODERN)
    main = samples.write(
        bench.cwd / "main/.git",
        {
            "packed-refs": f"{COMMIT} refs/tags/b7\n".encode(),
            "worktrees/t/HEAD": COMMIT.encode(),
            "worktrees/t/commondir": b"../..\n",
        },
    )
    (root / ".git").write_text(f"gitdir: {main}/worktrees/t\n")
    assert bench.open(root).version == "b7"


def test_another_checkout_is_another_version(bench: Any, samples: Any) -> None:
    root = samples.write(bench.cwd / "t", samples.MODERN)
    samples.write(root / ".git", {"HEAD": COMMIT.encode(), "logs/HEAD": b"1\n"})
    assert bench.open(root).version == "1234567"
    samples.write(root / ".git", {"HEAD": OTHER.encode(), "logs/HEAD": b"1\n2\n"})
    assert bench.open(root).version == "fedcba0"


def test_everything_the_answer_depends_on_is_watched(bench: Any, samples: Any) -> None:
    root: Path = samples.write(bench.cwd / "t", samples.MODERN)
    tree = bench.open(root)
    assert {root / name for name in tree.files} <= set(tree.watched)
    assert root / "ggml/src/ggml-cuda/template-instances" in tree.watched
    assert root / ".git/HEAD" in tree.watched
