"""The main job for AMD GPUs, with the ROCm of this machine and no GPU."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import llamabuild
from llamabuild import engine, events, inspect, probe, run, settings, source, toolchain
from llamabuild.arch import hip_target
from llamabuild.errors import ArchitectureError, SourceError, ToolchainError
from llamabuild.memo import Memo
from llamabuild.planning import make_plan
from llamabuild.toolchain import Hipblas, Machine, Rocm, find_rocm

pytestmark = pytest.mark.hipcc

CLASSIC = Path(__file__).parent / "data" / "classic"
TREE = Path(__file__).parent / "data" / "tree"
TARGETS = ("gfx906", "gfx1030")
ENVIRON = dict(os.environ)


@pytest.fixture(scope="session")
def rocm(need: Any) -> Rocm:
    found = find_rocm(ENVIRON, memo=Memo(None)).toolkits
    need(found, "a ROCm (Debian: apt install hipcc libamdhip64-dev rocm-device-libs)")
    return found[0]


def command(*words: str | Path, cache: Path, **variables: str) -> run.Completed:
    """The command line, as a user's shell would start it."""
    return run.capture(
        [sys.executable, "-m", "llamabuild", *words, "--cache-dir", cache],
        env=ENVIRON | variables,
        timeout=600,
    )


def check(path: Path, targets: tuple[str, ...] = TARGETS) -> inspect.Module:
    module = inspect.read_module(path)
    assert sorted(module.labels) == sorted(targets)
    assert module.backend == "hip"
    assert all(entry.kernels for entry in module.entries)
    assert any(name.startswith("libamdhip64.so.") for name in module.needed)
    assert not [name for name in module.needed if "cuda" in name or "stdc++" in name]
    return module


def test_what_is_found_here_compiles_what_it_says(rocm: Rocm) -> None:
    names = {target.name for target in rocm.targets}
    assert set(TARGETS) <= names
    assert not names & set(rocm.without_libraries)
    assert rocm.clang.is_file()
    assert rocm.bundler.is_file()


def test_the_bundled_kernels(rocm: Rocm, tmp_path: Path) -> None:
    (built,) = llamabuild.build(
        ",".join(TARGETS), "bundled", environ=ENVIRON, cache_dir=str(tmp_path)
    )
    assert (built.path.name, built.plan.toolkit.version) == ("ggml-rocm.so", rocm.version)
    module = check(built.path)
    assert set(built.plan.exports) <= set(module.exported)
    assert len(module.containers) == len(built.plan.device)


def test_a_classic_source_and_the_same_command_again(rocm: Rocm, tmp_path: Path) -> None:
    """Where hipcc would take nvcc, and options hide in variables, nothing changes."""
    folder = tmp_path / 'it\'s a $HOME of "sources" é'
    shutil.copytree(CLASSIC, folder)
    words = ["--backend", "hip", "--arch", ",".join(TARGETS), "--source", str(folder)]
    first = command(*words, "--json", cache=tmp_path / "cache", HIP_PLATFORM="nvidia")
    assert first.returncode == 0, first.text
    (artifact,) = json.loads(first.stdout)["artifacts"]
    assert (artifact["backend"], artifact["archs"]) == ("hip", list(TARGETS))
    assert artifact["toolkit"]["version"] == rocm.version
    module = check(Path(artifact["path"]))
    assert {"ggml_cuda_link", "ggml_backend_cuda_init"} <= set(module.exported)
    again = command(*words, "-v", cache=tmp_path / "cache")
    assert Path(again.stdout.strip()) == Path(artifact["path"])
    assert "from the cache" in again.stderr


def test_the_same_plan_gives_the_same_bytes_anywhere(rocm: Rocm, tmp_path: Path) -> None:
    del rocm
    digests = set()
    for name in ("one", 'an "other\\; $cache'):
        shutil.copytree(CLASSIC, tmp_path / name / "sources")
        (built,) = llamabuild.build(
            "gfx1030",
            str(tmp_path / name / "sources"),
            environ=ENVIRON,
            cache_dir=str(tmp_path / name / "cache"),
        )
        digests.add(built.artifact.manifest["sha256"])
    assert len(digests) == 1


def test_every_target_of_this_rocm_and_pinned_ones(rocm: Rocm, tmp_path: Path) -> None:
    (everything,) = llamabuild.build(
        "all gfx90a:sramecc+:xnack-",
        str(CLASSIC),
        backend="hip",
        environ=ENVIRON,
        cache_dir=str(tmp_path),
    )
    names = {str(target) for target in rocm.targets if not target.name.endswith("-generic")}
    check(everything.path, tuple((names - {"gfx90a"}) | {"gfx90a:sramecc+:xnack-"}))


def test_the_steps_make_what_one_clang_makes(rocm: Rocm, tmp_path: Path) -> None:
    """Kernel by kernel, the same names and sizes of code."""
    (built,) = llamabuild.build(
        ",".join(TARGETS), str(CLASSIC), environ=ENVIRON, cache_dir=str(tmp_path / "cache")
    )
    plan = built.plan
    whole = tmp_path / "whole.so"
    done = run.capture(
        [
            rocm.clang,
            *("-x", "hip", f"--rocm-path={rocm.root}", "-shared", "-no-hip-rt"),
            f"--rocm-device-lib-path={rocm.device_libraries}",
            *(*plan.host_flags, *plan.device_flags, "-I."),
            *(f"-D{define}" for define in plan.defines),
            *("ggml-cuda.cu", "-o", whole, "-x", "none", rocm.runtime),
        ],
        env=toolchain.hip_environment(ENVIRON),
        timeout=120,
        cwd=CLASSIC,
    )
    assert done.returncode == 0, done.text

    def kernels(path: Path) -> dict[str, set[str]]:
        entries = inspect.read_module(path).entries
        return {
            entry.arch: {kernel.name.partition("__intern__")[0] for kernel in entry.kernels or ()}
            for entry in entries
        }

    assert kernels(built.path) == kernels(whole)


@pytest.mark.parametrize("flavor", ["backend-dl", "self-contained"])
def test_a_tree_of_many_files(rocm: Rocm, flavor: str, tmp_path: Path) -> None:
    """Debian 12 has no hipBLAS, which every real tree needs; this one links anything."""
    kit = replace(rocm, hipblas=rocm.hipblas or Hipblas(rocm.include_dir, (rocm.runtime,)))
    memo = Memo(None)
    tree = source.open_source(
        str(TREE),
        scratch=tmp_path / "scratch",
        environ=ENVIRON,
        cwd=tmp_path,
        memo=memo,
        notify=events.silent,
    )
    plan = make_plan(
        settings.resolve({"backend": "hip", "flavor": flavor, "force_mmq": True}, {}),
        archs=tuple(map(hip_target, TARGETS)),
        toolkit=kit,
        host_compiler=kit.host_compiler,
        source=tree,
        machine=Machine.here(),
    )
    tools = engine.Tools(
        build=toolchain.find_build_tools(ENVIRON, memo=memo),
        limits=probe.host_limits(),
        environ=ENVIRON,
    )
    (tmp_path / "site").mkdir()
    with (tmp_path / "log").open("w") as log:
        path = engine.compile_plan(plan, tmp_path / "site", tools, log, events.silent)
    module = check(path)
    problems = inspect.check(
        module,
        archs=[str(target) for target in plan.archs],
        exports=plan.exports,
        allowed_needed=plan.may_need,
    )
    assert problems == ()
    assert "llamabuild_test_forced_mmq" in module.exported
    assert path.name == {"backend-dl": "libggml-hip.so"}.get(flavor, "ggml-rocm.so")


def test_a_first_error_is_shown(rocm: Rocm, tmp_path: Path) -> None:
    del rocm
    shutil.copytree(CLASSIC, tmp_path / "sources")
    with (tmp_path / "sources/ggml-cuda.cu").open("a") as file:
        file.write("\n#ifdef __HIP_DEVICE_COMPILE__\nstatic int broken = nothing;\n#endif\n")
    done = command(
        *("--arch", "gfx1030", "--source", tmp_path / "sources"), cache=tmp_path / "cache"
    )
    assert done.returncode == 6
    assert "use of undeclared identifier 'nothing'" in done.stderr.partition("command:")[0]


def test_device_libraries_of_another_make(rocm: Rocm, tmp_path: Path) -> None:
    """Bitcode that this clang cannot read is told before anything else is compiled."""
    libraries = tmp_path / "bitcode"
    shutil.copytree(rocm.device_libraries, libraries)
    for name in ("ocml.bc", "ockl.bc"):
        (libraries / name).write_bytes(b"BC\xc0\xde" + b"\0" * 64)
    top = tmp_path / "rocm"
    (top / "lib").mkdir(parents=True)
    (top / "lib/libamdhip64.so").symlink_to(rocm.runtime)
    (top / "include").symlink_to(rocm.include_dir)
    (top / "amdgcn").mkdir()
    (top / "amdgcn/bitcode").symlink_to(libraries)
    (top / "llvm").symlink_to(rocm.clang.parents[1])
    with pytest.raises(ToolchainError, match="cannot use the device libraries"):
        find_rocm(ENVIRON, explicit=str(top), memo=Memo(None))


def test_a_target_that_this_rocm_does_not_know(rocm: Rocm, tmp_path: Path) -> None:
    unknown = rocm.without_libraries or ("gfx1201",)
    with pytest.raises(ToolchainError, match=f"does not compile {unknown[-1]}"):
        llamabuild.plan(unknown[-1], "bundled", environ=ENVIRON, cache_dir=str(tmp_path))


def test_nvidias_with_amds_backend(rocm: Rocm, tmp_path: Path) -> None:
    del rocm
    with pytest.raises(ArchitectureError, match="sm_90 is an NVIDIA GPU"):
        llamabuild.plan("sm_90", "bundled", backend="hip", environ=ENVIRON, cache_dir=str(tmp_path))


def test_a_given_source_builds_or_says_at_once_why_not(
    rocm: Rocm, real_source: str, tmp_path: Path
) -> None:
    """0.8 to 0.8.4 compile with HIP 5.2; for the others it is too old, or hipBLAS is missing."""
    refusal: ToolchainError | SourceError | None = None
    try:
        llamabuild.plan(",".join(TARGETS), real_source, environ=ENVIRON, cache_dir=str(tmp_path))
    except (ToolchainError, SourceError) as error:
        refusal = error
    if refusal is not None:
        assert refusal.hint
        words = ("is needed, because", "has no hipBLAS", "no code for AMD")
        assert any(text in refusal.message for text in words)
        return
    (built,) = llamabuild.build(
        ",".join(TARGETS), real_source, environ=ENVIRON, cache_dir=str(tmp_path)
    )
    module = check(built.path)
    assert set(built.plan.exports) <= set(module.exported)
    assert built.plan.toolkit.version == rocm.version
