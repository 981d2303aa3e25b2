"""Finding ROCm: the steps of the search, what is turned down and why, and nothing asked twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import pytest

from llamabuild.arch import hip_target
from llamabuild.errors import ToolchainError
from llamabuild.memo import Memo
from llamabuild.toolchain import Rocm, RocmNeeds, RocmSearch, choose_rocm, programs
from llamabuild.toolchain.rocm import STEPS
from llamabuild.toolchain.rocm_describe import trouble

from .conftest import Sandbox

Place: TypeAlias = Callable[[Sandbox], Path]


def below(folder: str, **more: str) -> Place:
    return lambda sandbox: sandbox.rocm(sandbox.root / folder, **more)  # type: ignore[arg-type]


def by_variable(name: str) -> Place:
    def place(sandbox: Sandbox) -> Path:
        sandbox.environ[name] = str(sandbox.root / "somewhere/rocm")
        return sandbox.rocm(sandbox.root / "somewhere/rocm")

    return place


def on_path(name: str, folder: str) -> Place:
    def place(sandbox: Sandbox) -> Path:
        program = sandbox.program(sandbox.root / "somewhere/rocm" / folder / name, "exit 9")
        sandbox.environ["PATH"] = str(program.parent)
        return sandbox.rocm(sandbox.root / "somewhere/rocm")

    return place


def debian(sandbox: Sandbox) -> Path:
    return sandbox.rocm(
        sandbox.root / "usr",
        "5.2.21153",
        clang="lib/llvm-15/bin/clang++",
        devices="lib/x86_64-linux-gnu/amdgcn/bitcode",
    )


def ubuntu(sandbox: Sandbox) -> Path:
    return sandbox.rocm(
        sandbox.root / "usr",
        "5.7.31921",
        clang="lib/llvm-17/bin/clang++",
        llvm="17.0.6",
        devices="lib/llvm-17/lib/clang/17/lib/amdgcn/bitcode",
    )


def in_wheels(sandbox: Sandbox) -> Path:
    sandbox.python_path.append(sandbox.root / "site-packages")
    return sandbox.rocm(
        sandbox.root / "site-packages/_rocm_sdk_core",
        "7.14.60850",
        clang="lib/llvm/bin/clang++",
        devices="lib/llvm/amdgcn/bitcode",
    )


PLACES: dict[str, Place] = {
    "ROCM_PATH": by_variable("ROCM_PATH"),
    "HIP_PATH": by_variable("HIP_PATH"),
    "PATH": on_path("hipcc", "bin"),
    "PATH below llvm": on_path("amdclang++", "lib/llvm/bin"),
    "{root}/opt/rocm-6.2.0": below("opt/rocm-6.2.0"),
    "{root}/opt/rocm": below("opt/rocm", clang="lib/llvm/bin/clang++"),
    "{root}/opt/rocm/core-7.14": below("opt/rocm/core-7.14", devices="lib/llvm/amdgcn/bitcode"),
    "the distribution's packages": debian,
    "the distribution's packages below clang": ubuntu,
    "ROCm wheels": in_wheels,
}


@pytest.mark.parametrize("found_via", PLACES)
def test_a_rocm_is_found_wherever_people_put_it(sandbox: Sandbox, found_via: str) -> None:
    clang = PLACES[found_via](sandbox)
    search = sandbox.find_rocm()
    assert [(rocm.clang, rocm.found_via) for rocm in search.toolkits] == [
        (clang, found_via.format(root=sandbox.root).partition(" below")[0])
    ]
    assert search.rejected == ()
    assert search.warnings == ()
    assert "hipcc" not in sandbox.started  # a script that may take nvcc


def test_every_step_is_numbered_in_its_own_words() -> None:
    for number, step in enumerate(STEPS, 1):
        assert (step.__doc__ or "").startswith(f"{number}. ")


def test_what_a_rocm_is(sandbox: Sandbox) -> None:
    top = sandbox.root / "opt/rocm"
    sandbox.rocm(top, hipblas=True)
    (rocm,) = sandbox.find_rocm().toolkits
    assert (rocm.version, rocm.llvm) == ("6.2.41134", "18.0.0")
    # gfx600 is older than ROCm; clang knows gfx1100, the device libraries do not
    assert list(map(str, rocm.targets)) == ["gfx906", "gfx1030"]
    assert rocm.without_libraries == ("gfx1100",)
    assert rocm.device_libraries == top / "amdgcn/bitcode"
    assert rocm.runtime == top / "lib/libamdhip64.so"
    assert rocm.hipblas is not None
    assert rocm.hipblas.libraries == (top / "lib/libhipblas.so", top / "lib/librocblas.so")
    assert rocm.host_compiler.cc.name == "clang"
    assert rocm.compiles(hip_target("gfx906:xnack-"))
    assert not rocm.compiles(hip_target("gfx1100"))


def test_generic_targets_are_taken_where_both_have_them(sandbox: Sandbox) -> None:
    sandbox.rocm(
        sandbox.root / "opt/rocm",
        processors=("gfx1030", "gfx10-3-generic", "gfx11-generic"),
        built_for=("1030", "10-3-generic"),
    )
    (rocm,) = sandbox.find_rocm().toolkits
    assert list(map(str, rocm.targets)) == ["gfx1030", "gfx10-3-generic"]


def test_the_newest_goes_first_and_the_named_one_before_it(sandbox: Sandbox) -> None:
    for version in ("5.7.1", "6.10.2", "6.2.4"):
        sandbox.rocm(sandbox.root / f"opt/rocm-{version}", version)
    assert [rocm.version for rocm in sandbox.find_rocm().toolkits] == ["6.10.2", "6.2.4", "5.7.1"]
    sandbox.environ["ROCM_PATH"] = str(sandbox.root / "opt/rocm-5.7.1")
    assert [rocm.version for rocm in sandbox.find_rocm().toolkits] == ["5.7.1", "6.10.2", "6.2.4"]
    assert [rocm.version for rocm in sandbox.find_rocm("6.2").toolkits] == ["6.2.4"]


def test_a_link_is_listed_once(sandbox: Sandbox) -> None:
    sandbox.rocm(sandbox.root / "opt/rocm-6.2.0")
    (sandbox.root / "opt/rocm").symlink_to("rocm-6.2.0")
    assert len(sandbox.find_rocm().toolkits) == 1


def test_a_second_search_starts_no_process(sandbox: Sandbox) -> None:
    clang = debian(sandbox)
    first = sandbox.find_rocm()
    started = sandbox.started
    assert sandbox.find_rocm() == first
    assert sandbox.started == started
    assert clang in first.watched
    sandbox.clang(clang, "15.0.7", ("gfx906",))
    (again,) = sandbox.find_rocm().toolkits
    assert (again.llvm, list(map(str, again.targets))) == ("15.0.7", ["gfx906"])


def test_a_second_search_does_not_try_a_bad_clang_again(sandbox: Sandbox) -> None:
    sandbox.rocm(sandbox.root / "opt/rocm", trouble="clang: error: something else")
    sandbox.find_rocm()
    started = sandbox.started
    assert sandbox.find_rocm().toolkits == ()
    assert sandbox.started == started


def test_other_device_libraries_are_another_rocm(sandbox: Sandbox) -> None:
    sandbox.rocm(sandbox.root / "opt/rocm")
    (first,) = sandbox.find_rocm().toolkits
    (first.device_libraries / "ockl.bc").write_text("mended")
    (second,) = sandbox.find_rocm().toolkits
    assert first.identity != second.identity


def test_the_oldest_clang_that_reads_the_device_libraries_is_taken(sandbox: Sandbox) -> None:
    newer = "Producer: 'LLVM15.0.6' Reader: 'LLVM 14.0.6'"
    debian(sandbox)
    for major, complaint in ((14, newer), (19, ""), (9, newer)):
        clang = sandbox.root / f"usr/lib/llvm-{major}/bin/clang++"
        sandbox.clang(clang, f"{major}.0.0", ("gfx906",), complaint)
    (rocm,) = sandbox.find_rocm().toolkits
    assert rocm.llvm == "18.0.0"  # what debian() installs as llvm-15
    assert rocm.clang.parts[-3] == "llvm-15"


def test_device_libraries_that_the_user_names_go_first(sandbox: Sandbox) -> None:
    sandbox.rocm(sandbox.root / "opt/rocm")
    for name in ("ockl.bc", "ocml.bc", "oclc_isa_version_906.bc"):
        sandbox.file(sandbox.root / "mine" / name)
    sandbox.environ["HIP_DEVICE_LIB_PATH"] = str(sandbox.root / "mine")
    (rocm,) = sandbox.find_rocm().toolkits
    assert rocm.device_libraries == sandbox.root / "mine"
    assert list(map(str, rocm.targets)) == ["gfx906"]


def test_the_wheels_of_devel_take_what_they_lack_from_core(sandbox: Sandbox) -> None:
    sandbox.python_path.append(sandbox.root / "site-packages")
    core = sandbox.root / "site-packages/_rocm_sdk_core"
    sandbox.rocm(core, clang="lib/llvm/bin/clang++", devices="lib/llvm/amdgcn/bitcode")
    devel = sandbox.root / "site-packages/_rocm_sdk_devel"
    sandbox.rocm(devel, clang="lib/llvm/bin/clang++", omit=["ockl.bc"])
    first, second = sandbox.find_rocm().toolkits
    assert (first.root, second.root) == (devel, core)
    assert first.device_libraries.resolve() == core / "lib/llvm/amdgcn/bitcode"


@pytest.mark.parametrize(
    ("omit", "reason", "hint"),
    [
        ("clang++", "has no clang++", "hipcc"),
        ("libamdhip64.so", "has no libamdhip64.so", "libamdhip64-dev"),
        ("ockl.bc", "has no device libraries", "rocm-device-libs"),
        ("hip_version.h", "hip_version.h cannot be read", ""),
    ],
)
def test_what_is_missing_is_named(sandbox: Sandbox, omit: str, reason: str, hint: str) -> None:
    sandbox.rocm(sandbox.root / "opt/rocm", omit=[omit])
    (rejected,) = sandbox.find_rocm().rejected
    assert reason in rejected.reason
    assert hint in rejected.hint


def test_debians_hipcc_without_headers(sandbox: Sandbox) -> None:
    hipcc = sandbox.program(sandbox.root / "usr/bin/hipcc")
    sandbox.environ["PATH"] = str(hipcc.parent)
    (rejected,) = sandbox.find_rocm().rejected
    assert "without HIP's headers" in rejected.reason
    assert "libamdhip64-dev" in rejected.hint


@pytest.mark.parametrize(
    ("complaint", "reason", "hint"),
    [
        (
            "error: Unknown attribute kind (86) (Producer: 'LLVM17.0.6' Reader: 'LLVM 15.0.6')",
            "they were made by LLVM17.0.6, and it is LLVM 15.0.6",
            "HIP_DEVICE_LIB_PATH",
        ),
        (
            "clang: error: cannot find ROCm device library for gfx906; provide its path",
            "cannot use the device libraries in",
            "rocm-device-libs",
        ),
        ("error: Invalid bitcode signature", "cannot use the device libraries in", ""),
        (
            'clang: error: unable to execute command: Executable "lld" doesn\'t exist!',
            "has no linker",
            "lld",
        ),
        ("warning: hm\nclang: error: no such thing", "clang: error: no such thing", ""),
        ("Segmentation fault", "cannot compile a small kernel: Segmentation fault", ""),
    ],
)
def test_a_clang_that_cannot_compile_says_why(
    sandbox: Sandbox, complaint: str, reason: str, hint: str
) -> None:
    sandbox.rocm(sandbox.root / "opt/rocm", trouble=complaint)
    search = sandbox.find_rocm()
    assert search.toolkits == ()
    assert reason in search.rejected[0].reason
    assert hint in search.rejected[0].hint


def test_no_complaint_is_no_trouble() -> None:
    assert trouble("", Path("/x")) == ("", "")


def test_a_clang_that_hangs_is_asked_again_after_a_while(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = sandbox.root / "busy"
    busy.touch()
    clang = sandbox.rocm(sandbox.root / "opt/rocm")
    text = clang.read_text().replace("\n", f"\nwhile test -e '{busy}'; do :; done\n", 1)
    clang.write_text(text)
    monkeypatch.setattr(programs, "PROBE_SECONDS", 0.2)
    (rejected,) = sandbox.find_rocm().rejected
    assert "gave no answer" in rejected.reason
    monkeypatch.setattr(programs, "PROBE_SECONDS", 10)
    busy.unlink()
    asked = len(sandbox.started)
    (rejected,) = sandbox.find_rocm().rejected
    assert "gave no answer in time; it is asked again after " in rejected.reason
    assert len(sandbox.started) == asked
    monkeypatch.setattr(programs, "HANG_SECONDS", 0)
    assert len(sandbox.find_rocm().toolkits) == 1
    assert sandbox.find_rocm().rejected == ()


def test_a_clang_that_crashes_says_so(sandbox: Sandbox) -> None:
    clang = sandbox.rocm(sandbox.root / "opt/rocm")
    sandbox.program(clang, "kill -SEGV $$")
    (rejected,) = sandbox.find_rocm().rejected
    assert "crashed (SIGSEGV)" in rejected.reason


def test_a_clang_without_amd_support(sandbox: Sandbox) -> None:
    sandbox.rocm(sandbox.root / "opt/rocm", processors=())
    (rejected,) = sandbox.find_rocm().rejected
    assert "does not compile for AMD GPUs" in rejected.reason


def test_device_libraries_for_other_gpus_only(sandbox: Sandbox) -> None:
    sandbox.rocm(sandbox.root / "opt/rocm", built_for=("1200",))
    (rejected,) = sandbox.find_rocm().rejected
    assert "are for none of the GPUs" in rejected.reason


@pytest.mark.parametrize("variable", ["ROCM_PATH", "HIP_PATH"])
def test_a_variable_that_names_nothing_is_told(sandbox: Sandbox, variable: str) -> None:
    sandbox.environ[variable] = str(sandbox.root / "gone")
    search = sandbox.find_rocm()
    assert search.toolkits == ()
    assert f"{variable} names {sandbox.root / 'gone'}, which is not used" in search.warnings[0]


@pytest.mark.parametrize("explicit", ["/nowhere", "9.9"])
def test_an_explicit_toolkit_that_is_not_there(sandbox: Sandbox, explicit: str) -> None:
    sandbox.rocm(sandbox.root / "opt/rocm")
    with pytest.raises(ToolchainError, match=f"no ROCm fits --toolkit {explicit}"):
        sandbox.find_rocm(explicit)


def test_a_named_folder_stands_for_itself_and_not_for_what_is_above_it(sandbox: Sandbox) -> None:
    debian(sandbox)
    (sandbox.root / "usr/local/cuda").mkdir(parents=True)
    with pytest.raises(ToolchainError, match=r"there is no include/hip/hip_runtime\.h in it"):
        sandbox.find_rocm(str(sandbox.root / "usr/local/cuda"))


@pytest.mark.parametrize("part", ["", "llvm/bin/clang++", "bin/hipcc"])
def test_an_explicit_folder_or_program_ends_the_search(sandbox: Sandbox, part: str) -> None:
    sandbox.rocm(sandbox.root / "opt/rocm", "7.0.0")
    top = sandbox.root / "mine"
    sandbox.rocm(top)
    sandbox.program(top / "bin/hipcc")
    (rocm,) = sandbox.find_rocm(str(top / part)).toolkits
    assert (rocm.root, rocm.named, rocm.found_via) == (top, True, "--toolkit")


@pytest.mark.parametrize("system", ["windows", "macos"])
def test_only_linux_builds_for_amd(sandbox: Sandbox, system: str) -> None:
    sandbox.machine = replace(sandbox.machine, system=system)  # type: ignore[arg-type]
    with pytest.raises(ToolchainError, match="on Linux only"):
        sandbox.find_rocm()


class TestChoice:
    """Which of several, and what to install where none will do."""

    @pytest.fixture
    def rocm(self, sandbox: Sandbox) -> Rocm:
        sandbox.memo = Memo(None)
        sandbox.rocm(sandbox.root / "opt/rocm", "5.2.21153")
        return sandbox.find_rocm().toolkits[0]

    def test_the_first_that_can(self, rocm: Rocm) -> None:
        newer = replace(rocm, version="6.2.0", targets=rocm.targets[1:])
        search = RocmSearch((newer, rocm))
        assert choose_rocm(search, [hip_target("gfx1030")], RocmNeeds()).toolkit is newer
        choice = choose_rocm(search, [hip_target("gfx906:xnack-")], RocmNeeds())
        assert choice.toolkit is rocm
        assert "does not compile gfx906:xnack-" in choice.passed_over[0].reason
        assert choice.warnings == ()

    def test_a_named_one_that_cannot_is_told(self, rocm: Rocm) -> None:
        named = replace(rocm, root=Path("/mine"), named=True, found_via="ROCM_PATH", targets=())
        choice = choose_rocm(RocmSearch((named, rocm)), [hip_target("gfx906")], RocmNeeds())
        assert choice.toolkit is rocm
        assert "ROCM_PATH names /mine, but" in choice.warnings[0]

    def test_an_unknown_target_offers_one_that_its_card_runs(self, rocm: Rocm) -> None:
        with pytest.raises(ToolchainError, match="does not compile gfx1036") as caught:
            choose_rocm(RocmSearch((rocm,)), [hip_target("gfx1036")], RocmNeeds())
        assert "HSA_OVERRIDE_GFX_VERSION=10.3.0" in caught.value.hint
        assert "--arch gfx1030" in caught.value.hint

    def test_a_target_without_device_libraries(self, rocm: Rocm) -> None:
        with pytest.raises(ToolchainError, match="its clang knows gfx1100, its device") as caught:
            choose_rocm(RocmSearch((rocm,)), [hip_target("gfx1100")], RocmNeeds())
        assert "HSA_OVERRIDE" not in caught.value.hint
        assert "newer ROCm" in caught.value.hint

    def test_a_source_that_needs_a_newer_one(self, rocm: Rocm) -> None:
        needs = RocmNeeds(oldest=(5, 5), why="it calls __hmax")
        with pytest.raises(ToolchainError, match=r"5\.5 is needed, because it calls __hmax"):
            choose_rocm(RocmSearch((rocm,)), [], needs)
        newer = replace(rocm, version="5.5.0")
        assert choose_rocm(RocmSearch((rocm, newer)), [], needs).toolkit is newer

    def test_hipblas(self, rocm: Rocm) -> None:
        needs = RocmNeeds(hipblas="this release includes its headers")
        with pytest.raises(ToolchainError, match="no hipBLAS, and this release") as caught:
            choose_rocm(RocmSearch((rocm,)), [], needs)
        assert "libhipblas-dev" in caught.value.hint

    def test_nothing_found(self, sandbox: Sandbox) -> None:
        with pytest.raises(ToolchainError, match="no usable ROCm was found") as caught:
            choose_rocm(sandbox.find_rocm(), [], RocmNeeds())
        assert "apt install hipcc" in caught.value.hint
        sandbox.rocm(sandbox.root / "opt/rocm", omit=["ockl.bc"])
        with pytest.raises(ToolchainError, match="has no device libraries") as caught:
            choose_rocm(sandbox.find_rocm(), [], RocmNeeds())
        assert "rocm-device-libs" in caught.value.hint
