"""The whole of ``verify`` and ``bench``, with programs that only pretend to load a module."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llamabuild import probe
from llamabuild.errors import (
    ArchitectureError,
    ModuleRejectedError,
    ToolchainError,
    UsageError,
)
from llamabuild.events import Event, StepFinished, StepStarted
from llamabuild.probe import Detection, Gpu
from llamabuild.source import SourceTree
from llamabuild.verify import bench, hosting, verify, verifying
from llamabuild.verify.model import Row, Verdict

from .conftest import REAL_PYTHON, SOUND

Child = Callable[..., None]

CLASSIC: tuple[dict[str, Any], ...] = (
    {"ready": True},
    {"flavor": "classic", "symbols": 4, "missing": []},
    {"end": True},
)
DRIVEN: tuple[dict[str, Any], ...] = (
    {"devices": 1},
    {"doing": "q4_0, 262 x 1376 times 1376 x 1"},
    {
        "row": {
            "type": "q4_0",
            "m": 262,
            "n": 1,
            "k": 1376,
            "error": 5e-3,
            "worst": 0.01,
            "right": True,
        }
    },
    {"end": True},
)
TABLE = """
struct ggml_backend_api {
    bool *FLAG_log_disable;
    void *(*GGML_CALL malloc)(size_t);
};
"""


@pytest.fixture
def module(tmp_path: Path) -> Path:
    path = tmp_path / "ggml-cuda.so"
    path.write_bytes(b"not looked at")
    return path


@pytest.fixture
def child(program: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Child:
    """Let a program of the test's be Python."""

    def set_child(*lines: dict[str, Any], then: str = "") -> None:
        monkeypatch.setattr(sys, "executable", str(program(*lines, then=then)))

    return set_child


@pytest.fixture
def tree(tmp_path: Path) -> SourceTree:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "ggml-backend-impl.h").write_text(TABLE)
    (tmp_path / "tree" / "ggml-cuda.h").write_text("GGML_CALL bool ggml_cuda_link(const api *);")
    return SourceTree(
        kind="llamafile",
        version="0.8.14-0.8.16",
        root=tmp_path / "tree",
        files=(),
        digest="0" * 64,
        layout="classic",
        flavors=("classic",),
        origin="tree",
        includes=(".",),
    )


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let there be a GPU."""
    h200 = Gpu("nvidia", 0, "NVIDIA H200", "90", None, "580.159", "NVML", "")
    monkeypatch.setattr(probe, "detect_gpus", lambda _: Detection((h200,), (), None))


@pytest.fixture
def compiler(program: Callable[..., Path], tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Make a compiler whose result is a program of the test's; return an environment with it."""

    def make(*lines: dict[str, Any], then: str = "") -> dict[str, str]:
        result = program(*lines, then=then, name="host")
        folder = tmp_path / "bin"
        folder.mkdir()
        gcc = folder / "gcc"
        gcc.write_text(
            f"#!{REAL_PYTHON} -S\nimport json, os, sys\n"
            f"json.dump(sys.argv, open({str(tmp_path / 'argv.json')!r}, 'w'))\n"
            f"os.link({str(result)!r}, sys.argv[sys.argv.index('-o') + 1])\n"
        )
        gcc.chmod(0o755)
        return {**os.environ, "PATH": str(folder)}

    return make


def tried(module: Path, **options: Any) -> Verdict:
    return verify(module, **{"environ": os.environ, "time_limit": 20.0, **options})


def test_a_sound_module_of_ours_passes(module: Path, child: Child) -> None:
    child(*SOUND)
    events: list[Event] = []
    verdict = tried(module, notify=events.append)
    assert verdict.passed
    assert verdict.complete
    assert verdict.path == module
    assert verdict.rows == (Row("q4_0", 2, 3, 32, "dp4a", 5e-3, 1e-7, right=True),)
    assert [type(event) for event in events] == [StepStarted, StepFinished]


def test_the_child_is_told_what_to_do(module: Path, child: Child) -> None:
    ours = str(Path(verifying.__file__).parents[2])
    child(*SOUND, then=f"print(sys.argv)\nprint({ours!r} in os.environ['PYTHONPATH'].split(':'))")
    words = tried(module, device=1, types=["Q4_0"]).words
    assert "'-P', '-m', 'llamabuild.verify.child'" in words
    assert f'"module": "{module}", "device": 1, "types": ["Q4_0"]' in words
    assert words.endswith("\nTrue")


def test_a_relative_name_is_found_from_the_childs_folder(
    module: Path, child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(module.parent)
    child(*SOUND, then="print(sys.argv)")
    assert f'"module": "{module}"' in tried(Path(module.name)).words


@pytest.mark.parametrize(
    ("lines", "then", "words"),
    [
        (SOUND[:-1], "os.kill(os.getpid(), signal.SIGSEGV)", "crashed (SIGSEGV) at q4_0, 2 x 32"),
        (SOUND[:-1], "file.write('garbage\\n')", "a report that cannot be read"),
        (SOUND[:-1], "print('no device code compatible with CUDA arch 600'); sys.exit(1)", "600"),
        ((*SOUND[:7], {"row": {**SOUND[7]["row"], "right": False}}, SOUND[8]), "", "wrongly"),
    ],
)
def test_whatever_the_module_does_is_a_verdict(
    module: Path, child: Child, lines: Sequence[dict[str, Any]], then: str, words: str
) -> None:
    child(*lines, then=then)
    verdict = tried(module)
    assert not verdict.passed
    assert verdict.error is not None
    assert words in verdict.error.message


def test_a_hang_is_a_verdict(module: Path, child: Child) -> None:
    child(*SOUND[:-1], then="time.sleep(60)")
    verdict = tried(module, time_limit=0.5)
    assert verdict.error is not None
    assert "did not answer within 0.5 seconds at q4_0" in verdict.error.message
    assert len(verdict.rows) == 1


@pytest.mark.parametrize("name", ["absent.so", "."])
def test_what_is_no_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"does not exist|is not a file"):
        tried(tmp_path / name)


def test_packages_that_cannot_be_used_are_not_the_modules_fault(module: Path, child: Child) -> None:
    child({"ready": True}, {"unusable": "ModuleNotFoundError: No module named 'gguf'"})
    with pytest.raises(ToolchainError, match="No module named 'gguf'") as caught:
        tried(module)
    assert caught.value.hint == "pip install --upgrade 'llamabuild[verify]'"


def test_a_python_that_cannot_even_start_is_not_the_modules_fault(
    module: Path, child: Child
) -> None:
    child(then="sys.exit('ImportError: no encodings')")
    with pytest.raises(ToolchainError, match="no encodings"):
        tried(module)


def test_no_python_is_no_traceback(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(module.parent / "absent"))
    with pytest.raises(ToolchainError, match="cannot be started"):
        tried(module)


def test_a_type_that_nobody_knows(module: Path, child: Child) -> None:
    child(*SOUND)
    with pytest.raises(UsageError, match="no products of q9_9") as caught:
        tried(module, types=["q4_0", "q9_9"])
    assert "q4_0, q4_K" in caught.value.hint


def test_without_its_source_a_classic_module_is_only_loaded(
    module: Path, child: Child, gpu: None
) -> None:
    child(*CLASSIC)
    verdict = tried(module)
    assert verdict.passed
    assert not verdict.complete
    assert "loads as a classic module" in verdict.shown
    assert "--source" in str(verdict.not_shown[0])


def test_a_classic_module_that_cannot_be_driven_wants_a_gpu_all_the_same(
    module: Path, child: Child
) -> None:
    child(*CLASSIC)
    with pytest.raises(ArchitectureError, match="there is no GPU to run the module on"):
        tried(module)


def test_with_its_source_a_classic_module_is_driven(
    module: Path,
    child: Child,
    compiler: Callable[..., dict[str, str]],
    tree: SourceTree,
    tmp_path: Path,
) -> None:
    child(*CLASSIC)
    environ = compiler(*DRIVEN, then="print(sys.argv[2:])")
    verdict = tried(module, source=tree, environ=environ, device=0, types=["q4_0"])
    assert verdict.passed, verdict.error
    assert verdict.complete
    assert verdict.flavor == "classic"
    assert [(row.type, row.n, row.same) for row in verdict.rows] == [("q4_0", 1, None)]
    assert verdict.words == str([str(module), "0", "q4_0"])
    command = (tmp_path / "argv.json").read_text()
    assert "-DAPI_MEMBERS=X(malloc)" in command
    assert "X(ggml_backend_cuda_get_device_description)" in command  # since 0.8.15
    assert "get_device_properties" not in command  # since 0.9.2


@pytest.mark.parametrize("defines", [(), ("NDEBUG", "GGML_MULTIPLATFORM")])
def test_a_ggml_module_is_driven_in_the_convention_of_its_build(
    module: Path,
    child: Child,
    compiler: Callable[..., dict[str, str]],
    tree: SourceTree,
    tmp_path: Path,
    defines: tuple[str, ...],
) -> None:
    child(
        {"ready": True}, {"flavor": "self-contained", "symbols": 2}, {"devices": 1}, {"end": True}
    )
    (tree.root / "ggml-cuda.h").write_text("ggml_backend_reg_t ggml_backend_cuda_reg(void);")
    tree = replace(tree, layout="split", defines=defines)
    verdict = tried(module, source=tree, environ=compiler(*DRIVEN))
    assert verdict.passed, verdict.error
    assert verdict.flavor == "self-contained"
    command = (tmp_path / "argv.json").read_text()
    assert "ggml_host.c" in command
    assert "-DHAS_REG=1" in command
    assert ("-DGGML_MULTIPLATFORM=1" in command) == bool(defines)


def test_a_stand_in_whose_module_gives_up(
    module: Path, child: Child, compiler: Callable[..., dict[str, str]], tree: SourceTree
) -> None:
    child(*CLASSIC)
    trap = "CUDA kernel vec_dot_q4_0_q8_1_impl has no device code compatible with CUDA arch 600."
    failed = {"failed": "the module called exit(1)"}
    environ = compiler(*DRIVEN[:2], failed, then=f"print({trap!r}); sys.exit(4)")
    verdict = tried(module, source=tree, environ=environ)
    assert verdict.flavor == "classic"
    assert verdict.error is not None
    assert trap in verdict.error.message
    assert "--arch native" in verdict.error.hint


def test_a_stand_in_that_finds_no_gpu(
    module: Path, child: Child, compiler: Callable[..., dict[str, str]], tree: SourceTree
) -> None:
    child(*CLASSIC)
    environ = compiler({"no_device": "the module found no device"}, then="sys.exit(3)")
    with pytest.raises(ArchitectureError, match="there is no GPU to run the module on"):
        tried(module, source=tree, environ=environ)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"version": "0.6.1"}, "as llamafile 0.6.1 does"),
        ({"version": None}, "as llamafile (unknown version) does"),
        ({"includes": ("absent",)}, "no ggml-backend-impl.h in"),
        ({"layout": "split", "includes": ("absent",)}, "no ggml-cuda.h in"),
        ({}, "there is no gcc, cc or clang on PATH"),
    ],
)
def test_no_stand_in_is_not_the_modules_fault(
    module: Path, child: Child, tree: SourceTree, gpu: None, changes: dict[str, Any], why: str
) -> None:
    child(*CLASSIC)
    environ = {**os.environ, "PATH": str(module.parent)}
    verdict = tried(module, source=replace(tree, **changes), environ=environ)
    assert verdict.passed
    assert why in str(verdict.not_shown[0])


def test_a_compiler_that_fails_is_not_the_modules_fault(
    module: Path, child: Child, tree: SourceTree, gpu: None, tmp_path: Path
) -> None:
    child(*CLASSIC)
    gcc = tmp_path / "gcc"
    gcc.write_text("#!/bin/sh\necho ggml.h: wrong >&2\nexit 1\n")
    gcc.chmod(0o755)
    verdict = tried(module, source=tree, environ={**os.environ, "PATH": str(tmp_path)})
    assert verdict.passed
    assert "ggml.h: wrong" in str(verdict.not_shown[0])


def test_a_type_that_no_stand_in_knows(
    module: Path, child: Child, compiler: Callable[..., dict[str, str]], tree: SourceTree
) -> None:
    child(*CLASSIC)
    with pytest.raises(UsageError, match="no products of iq2_xs") as caught:
        tried(module, source=tree, environ=compiler(*DRIVEN), types=["iq2_xs"])
    assert ", ".join(hosting.TYPES) in caught.value.hint


# --- bench ----------------------------------------------------------------------------------------

TIMING = {
    "type": "q4_0",
    "m": 64,
    "n": 1,
    "k": 256,
    "path": "dp4a",
    "microseconds": 10.0,
    "least": 9.0,
    "most": 11.0,
    "bytes_per_second": 1e9,
    "operations_per_second": 1e12,
    "share": 0.5,
}
TIMED = (*SOUND[:6], {"copy_bytes_per_second": 2e9}, {"timing": TIMING}, {"end": True})


def test_times_come_back(module: Path, child: Child) -> None:
    child(*TIMED, then="print(sys.argv)")
    timings = bench(module, shapes=[(64, 256)], columns=[1], environ=os.environ)
    assert timings.copy_bytes_per_second == 2e9
    assert timings.card.name == "GeForce GTX 1080"
    assert [(row.type, row.microseconds, row.share) for row in timings.rows] == [
        ("q4_0", 10.0, 0.5)
    ]


def test_other_modules_cannot_be_timed(module: Path, child: Child) -> None:
    child(*CLASSIC)
    with pytest.raises(UsageError, match="only our own kernels can be timed"):
        bench(module, environ=os.environ)


def test_a_crash_while_timing_is_an_error(module: Path, child: Child) -> None:
    child(*TIMED[:-1], then="os.abort()")
    with pytest.raises(ModuleRejectedError, match="SIGABRT"):
        bench(module, environ=os.environ)


def test_times_that_are_none_are_an_error(module: Path, child: Child) -> None:
    child(*TIMED[:-2], {"timing": {"type": "q4_0"}}, TIMED[-1])
    with pytest.raises(ModuleRejectedError, match="cannot be read"):
        bench(module, environ=os.environ)


@pytest.mark.parametrize("options", [{"columns": []}, {"columns": [0]}, {"shapes": [(4, -1)]}])
def test_impossible_shapes_are_refused(module: Path, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        bench(module, environ=os.environ, **options)
