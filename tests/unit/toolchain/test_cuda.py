"""Finding toolkits: the steps of the search, their order, and everything that is turned down."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from llamabuild.errors import ToolchainError
from llamabuild.memo import Memo, identity
from llamabuild.toolchain import Machine, ToolkitSearch, describe, programs
from llamabuild.toolchain.cuda import STEPS

from .conftest import Sandbox

Place: TypeAlias = Callable[[Sandbox], Path]


def by_variable(name: str, part: str) -> Place:
    def place(sandbox: Sandbox) -> Path:
        nvcc = sandbox.toolkit(sandbox.root / "somewhere/cuda")
        sandbox.environ[name] = str(sandbox.root / "somewhere/cuda" / part)
        return nvcc

    return place


def by_name_on_path(sandbox: Sandbox) -> Path:
    nvcc = sandbox.toolkit(sandbox.root / "somewhere/cuda")
    sandbox.environ |= {"CUDACXX": "nvcc", "PATH": str(nvcc.parent)}
    return nvcc


def on_path(sandbox: Sandbox) -> Path:
    nvcc = sandbox.toolkit(sandbox.root / "somewhere/cuda")
    sandbox.environ["PATH"] = f"{sandbox.root / 'empty'}:{nvcc.parent}"
    return nvcc


def below(folder: str) -> Place:
    return lambda sandbox: sandbox.toolkit(sandbox.root / folder)


def in_wheels(sandbox: Sandbox) -> Path:
    sandbox.python_path.append(sandbox.root / "site-packages")
    return sandbox.toolkit(sandbox.root / "site-packages/nvidia/cu13")


def in_conda(sandbox: Sandbox) -> Path:
    sandbox.environ["CONDA_PREFIX"] = str(sandbox.root / "env")
    return sandbox.toolkit(sandbox.root / "env", target="x86_64-linux")


PLACES: dict[str, Place] = {
    "CUDACXX": by_variable("CUDACXX", "bin/nvcc"),
    "CUDACXX by name": by_name_on_path,
    "NVCC": by_variable("NVCC", "bin/nvcc"),
    "CUDA_HOME": by_variable("CUDA_HOME", ""),
    "CUDA_PATH": by_variable("CUDA_PATH", ""),
    "PATH": on_path,
    "{root}/usr/local/cuda-12.8": below("usr/local/cuda-12.8"),
    "{root}/opt/cuda": below("opt/cuda"),
    "Debian's nvidia-cuda-toolkit": Sandbox.debian_toolkit,
    "CUDA wheels": in_wheels,
    "conda": in_conda,
}


@pytest.mark.parametrize("found_via", PLACES)
def test_a_toolkit_is_found_wherever_people_put_it(sandbox: Sandbox, found_via: str) -> None:
    nvcc = PLACES[found_via](sandbox)
    search = sandbox.find()
    assert [(toolkit.nvcc, toolkit.found_via) for toolkit in search.toolkits] == [
        (nvcc, found_via.format(root=sandbox.root).removesuffix(" by name"))
    ]
    assert search.rejected == ()
    assert search.warnings == ()


def test_every_step_of_the_search_says_its_number() -> None:
    assert [(step.__doc__ or "").split(".")[0] for step in STEPS] == [
        str(number) for number in range(1, len(STEPS) + 1)
    ]


def test_nothing_is_found_on_an_empty_machine(sandbox: Sandbox) -> None:
    search = sandbox.find()
    assert (search.toolkits, search.rejected, search.warnings) == ((), (), ())


def test_the_toolkit_is_described_in_full(sandbox: Sandbox) -> None:
    nvcc = sandbox.toolkit(sandbox.root / "opt/cuda", gcc_max=15, cublas=True)
    (toolkit,) = sandbox.find().toolkits
    top = sandbox.root / "opt/cuda"
    assert toolkit.version == "13.0.88"
    assert toolkit.root == top
    assert toolkit.nvcc == nvcc
    assert [str(arch) for arch in toolkit.real] == [
        "75-real", "80-real", "90-real", "90a-real", "120-real",
    ]  # fmt: skip
    assert [str(arch) for arch in toolkit.virtual] == [
        "75-virtual", "80-virtual", "90-virtual", "90a-virtual", "120-virtual",
    ]  # fmt: skip
    assert dict(toolkit.pieces) == {
        "cicc": "13.0.88",
        "cudafe++": "13.0.88",
        "cudart": "13.0",
        "fatbinary": "13.0.88",
        "nvcc": "13.0.88",
        "nvlink": "13.0.88",
        "ptxas": "13.0.88",
    }
    assert toolkit.path_dirs == (top / "bin", top / "nvvm/bin")
    assert toolkit.include_dir == top / "include"
    assert toolkit.library_dirs == (top / "lib",)
    assert toolkit.gcc_max == 15
    assert (toolkit.split_compile, toolkit.threads, toolkit.compress_mode) == (True, True, False)


def test_the_identity_is_the_same_in_another_folder_and_another_for_other_pieces(
    sandbox: Sandbox, tmp_path
) -> None:
    sandbox.toolkit(sandbox.root / "opt/cuda")
    sandbox.toolkit(sandbox.root / "usr/local/cuda-13.0")
    sandbox.toolkit(sandbox.root / "usr/local/cuda-13.1", pieces={"ptxas": "13.0.99"})
    newer, one, two = sorted(
        sandbox.find().toolkits, key=lambda toolkit: "13.1" not in str(toolkit.root)
    )
    assert one.root != two.root
    assert one.identity == two.identity != newer.identity


# --- Which one goes first ------------------------------------------------------------------------


def test_the_newest_goes_first_by_number_not_by_letters(sandbox: Sandbox) -> None:
    for version in ("9.2.148", "13.0.88", "12.9.86", "12.10.1"):
        sandbox.toolkit(sandbox.root / f"usr/local/cuda-{version}", version)
    assert [toolkit.version for toolkit in sandbox.find().toolkits] == [
        "13.0.88", "12.10.1", "12.9.86", "9.2.148",
    ]  # fmt: skip


def test_those_that_the_user_names_go_before_newer_ones(sandbox: Sandbox) -> None:
    sandbox.toolkit(sandbox.root / "opt/cuda", "13.0.88")
    sandbox.environ["CUDA_HOME"] = str(
        sandbox.toolkit(sandbox.root / "old", "11.8.89").parent.parent
    )
    sandbox.environ["CUDACXX"] = str(sandbox.toolkit(sandbox.root / "older", "11.2.67"))
    assert [(toolkit.version, toolkit.named) for toolkit in sandbox.find().toolkits] == [
        ("11.2.67", True),
        ("11.8.89", True),
        ("13.0.88", False),
    ]


def test_a_version_with_a_known_defect_goes_last_unless_it_is_named(sandbox: Sandbox) -> None:
    sandbox.toolkit(sandbox.root / "usr/local/cuda-13.2", "13.2.78")
    sandbox.toolkit(sandbox.root / "usr/local/cuda-13.0", "13.0.88")
    sound, defective = sandbox.find().toolkits
    assert (sound.version, sound.known_problems) == ("13.0.88", ())
    assert "IQ" in defective.known_problems[0]
    sandbox.environ["CUDA_HOME"] = str(sandbox.root / "usr/local/cuda-13.2")
    assert sandbox.find().toolkits[0].version == "13.2.78"


@pytest.mark.parametrize(
    ("version", "defective"),
    [
        ("13.1.115", False),
        ("13.2.51", True),
        ("13.2.78", True),
        ("13.2.86", False),
        ("13.3.33", False),
    ],
)
def test_the_defect_is_told_of_the_versions_that_have_it_only(
    sandbox: Sandbox, version: str, defective: bool
) -> None:
    sandbox.toolkit(sandbox.root / "opt/cuda", version)
    assert bool(sandbox.find().toolkits[0].known_problems) is defective


# --- One toolkit, several ways -------------------------------------------------------------------


def test_a_toolkit_found_in_several_ways_is_listed_once_as_the_first_names_it(
    sandbox: Sandbox,
) -> None:
    nvcc = sandbox.toolkit(sandbox.root / "usr/local/cuda-13.0")
    (sandbox.root / "usr/local/cuda").symlink_to("cuda-13.0")
    sandbox.environ |= {
        "PATH": f"{nvcc.parent}:{sandbox.root / 'usr/local/cuda/bin'}",
        "CUDA_PATH": str(sandbox.root / "usr/local/cuda"),
    }
    (toolkit,) = sandbox.find().toolkits
    assert (toolkit.found_via, toolkit.nvcc) == ("CUDA_PATH", nvcc)


def test_the_nvcc_behind_a_wrapper_script_is_found_by_asking_it(sandbox: Sandbox) -> None:
    nvcc = sandbox.debian_toolkit()
    sandbox.environ["PATH"] = str(sandbox.root / "usr/bin")
    (toolkit,) = sandbox.find().toolkits
    assert (toolkit.nvcc, toolkit.found_via) == (nvcc, "PATH")
    assert toolkit.path_dirs == (nvcc.parent, sandbox.root / "usr/bin")
    assert toolkit.include_dir == sandbox.root / "usr/include"
    assert toolkit.library_dirs == (sandbox.root / "usr/lib/x86_64-linux-gnu",)


def test_a_wrapper_that_does_not_say_where_it_leads_is_turned_down(sandbox: Sandbox) -> None:
    sandbox.program(sandbox.root / "bin/nvcc", "exit 0")
    sandbox.environ["PATH"] = str(sandbox.root / "bin")
    (rejected,) = sandbox.find().rejected
    assert "wrapper" in rejected.reason


# --- Warnings ------------------------------------------------------------------------------------


def test_it_warns_when_cuda_home_and_cuda_path_differ(sandbox: Sandbox) -> None:
    sandbox.toolkit(sandbox.root / "a", "12.8.93")
    sandbox.toolkit(sandbox.root / "b", "13.0.88")
    sandbox.environ |= {"CUDA_HOME": str(sandbox.root / "a"), "CUDA_PATH": str(sandbox.root / "b")}
    search = sandbox.find()
    assert [toolkit.version for toolkit in search.toolkits] == ["12.8.93", "13.0.88"]
    (warning,) = search.warnings
    assert "CUDA_HOME" in warning
    assert "CUDA_PATH" in warning


def test_it_does_not_warn_when_they_are_one_folder_by_two_names(sandbox: Sandbox) -> None:
    sandbox.toolkit(sandbox.root / "a")
    (sandbox.root / "b").symlink_to("a")
    sandbox.environ |= {"CUDA_HOME": str(sandbox.root / "a"), "CUDA_PATH": str(sandbox.root / "b")}
    assert sandbox.find().warnings == ()


@pytest.mark.parametrize("variable", ["CUDACXX", "NVCC", "CUDA_HOME", "CUDA_PATH"])
def test_a_variable_that_leads_nowhere_is_a_warning_and_others_are_found(
    sandbox: Sandbox, variable: str
) -> None:
    sandbox.toolkit(sandbox.root / "opt/cuda")
    sandbox.environ[variable] = str(sandbox.root / "gone")
    search = sandbox.find()
    assert len(search.toolkits) == 1
    assert len(search.warnings) == 1
    assert f"{variable} names {sandbox.root / 'gone'}" in search.warnings[0]


# --- --toolkit -----------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["", "bin", "bin/nvcc"])
def test_toolkit_takes_the_folder_its_bin_or_nvcc_itself(sandbox: Sandbox, part: str) -> None:
    sandbox.toolkit(sandbox.root / "opt/cuda")
    nvcc = sandbox.toolkit(sandbox.root / "my cuda ü'\"", "12.8.93")
    search = sandbox.find(str(nvcc.parent.parent / part))
    assert [(toolkit.nvcc, toolkit.found_via, toolkit.named) for toolkit in search.toolkits] == [
        (nvcc, "--toolkit", True)
    ]


@pytest.mark.parametrize("version", ["12", "12.8", "12.8.93"])
def test_toolkit_takes_a_version(sandbox: Sandbox, version: str) -> None:
    sandbox.toolkit(sandbox.root / "usr/local/cuda-13.0", "13.0.88")
    sandbox.toolkit(sandbox.root / "usr/local/cuda-12.8", "12.8.93")
    sandbox.toolkit(sandbox.root / "usr/local/cuda-1.2", "11.2.67")
    search = sandbox.find(version)
    assert [toolkit.version for toolkit in search.toolkits] == ["12.8.93"]
    assert {rejected.path.name for rejected in search.rejected} == {"cuda-13.0", "cuda-1.2"}


def test_a_version_that_is_not_installed_is_an_error_that_lists_what_is(sandbox: Sandbox) -> None:
    sandbox.toolkit(sandbox.root / "opt/cuda", "13.0.88")
    with pytest.raises(ToolchainError) as caught:
        sandbox.find("12.9")
    assert caught.value.exit_code == 4
    assert "is 13.0.88, not 12.9" in caught.value.message
    assert caught.value.hint


def test_a_folder_without_nvcc_is_an_error_that_says_so(sandbox: Sandbox) -> None:
    sandbox.toolkit(sandbox.root / "opt/cuda")
    folder = sandbox.root / "my cuda"
    folder.mkdir()
    with pytest.raises(ToolchainError, match=r"my cuda.* has no nvcc") as caught:
        sandbox.find(str(folder))
    assert caught.value.exit_code == 4
    assert "bin/nvcc" in caught.value.hint


def test_a_folder_that_is_not_there_is_an_error_that_says_so(sandbox: Sandbox) -> None:
    with pytest.raises(ToolchainError, match="is no folder"):
        sandbox.find(str(sandbox.root / "gone"))


# --- Broken toolkits -----------------------------------------------------------------------------

BROKEN = {
    "hangs": (["exec /bin/sleep 60"], "gave no answer in"),
    "crashes": (["kill -SEGV $$"], "crashed (SIGSEGV)"),
    "fails": (["echo 'no license' >&2", "exit 3"], "failed with exit status 3: no license"),
    "babbles": (["echo hello"], "names no architecture"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_nvcc_is_turned_down_with_the_reason(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    lines, reason = BROKEN[how]
    if how == "hangs":
        monkeypatch.setattr(programs, "PROBE_SECONDS", 0.3)
    sandbox.toolkit(sandbox.root / "opt/cuda")
    sandbox.program(sandbox.toolkit(sandbox.root / "usr/local/cuda-12.8", "12.8.93"), *lines)
    search = sandbox.find()
    assert [toolkit.version for toolkit in search.toolkits] == ["13.0.88"]
    (rejected,) = search.rejected
    assert reason in rejected.reason
    with pytest.raises(ToolchainError, match=r"cuda-12\.8") as caught:
        sandbox.find(str(sandbox.root / "usr/local/cuda-12.8"))
    assert reason in caught.value.message


class TestANvccThatHangs:
    """It is asked once, and again when it may have been mended."""

    @pytest.fixture
    def nvcc(self, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Path:
        nvcc = sandbox.toolkit(sandbox.root / "opt/cuda")
        sound = nvcc.read_text()
        busy = sandbox.root / "busy"
        busy.touch()
        nvcc.write_text(sound.replace("\n", f"\nwhile test -e '{busy}'; do :; done\n", 1))
        monkeypatch.setattr(programs, "PROBE_SECONDS", 0.3)
        (rejected,) = sandbox.find().rejected
        assert rejected.reason == "`nvcc --help` gave no answer in time"
        monkeypatch.setattr(programs, "PROBE_SECONDS", 10)
        busy.unlink()
        return nvcc

    def test_is_not_waited_for_at_every_start(self, sandbox: Sandbox, nvcc: Path) -> None:
        asked = sandbox.started
        (rejected,) = sandbox.find().rejected
        assert sandbox.started == asked
        found = re.fullmatch(
            r"`nvcc --help` gave no answer in time; it is asked again after (\d\d:\d\d), or if it "
            "changes or an option names it",
            rejected.reason,
        )
        assert found

    def test_is_asked_again_if_it_changes(self, sandbox: Sandbox, nvcc: Path) -> None:
        os.utime(nvcc)
        assert len(sandbox.find().toolkits) == 1

    @pytest.mark.parametrize("seconds", [0, -3600])  # the clock was put back
    def test_is_asked_again_after_a_while(
        self, sandbox: Sandbox, nvcc: Path, monkeypatch: pytest.MonkeyPatch, seconds: int
    ) -> None:
        if seconds:
            now = time.time()
            monkeypatch.setattr(time, "time", lambda: now + seconds)
        else:
            monkeypatch.setattr(programs, "HANG_SECONDS", 0)
        assert len(sandbox.find().toolkits) == 1
        monkeypatch.undo()
        assert sandbox.find().rejected == ()

    def test_is_asked_again_if_an_option_names_it(self, sandbox: Sandbox, nvcc: Path) -> None:
        assert len(sandbox.find(str(nvcc)).toolkits) == 1
        assert sandbox.find().rejected == ()

    def test_is_asked_by_who_remembers_nothing(self, sandbox: Sandbox, nvcc: Path) -> None:
        sandbox.memo = Memo(None)
        assert len(sandbox.find().toolkits) == 1


def test_an_nvcc_that_is_not_a_program_is_turned_down(sandbox: Sandbox) -> None:
    nvcc = sandbox.toolkit(sandbox.root / "opt/cuda")
    nvcc.chmod(0o644)
    (rejected,) = sandbox.find().rejected
    assert "cannot be started" in rejected.reason


@pytest.mark.parametrize("tool", ["cicc", "ptxas", "cudafe++", "nvlink", "fatbinary"])
def test_a_tool_that_crashes_makes_the_toolkit_unusable(sandbox: Sandbox, tool: str) -> None:
    sandbox.toolkit(sandbox.root / "opt/cuda")
    (program,) = (sandbox.root / "opt/cuda").rglob(tool)
    sandbox.program(program, "kill -ILL $$")
    (rejected,) = sandbox.find().rejected
    assert tool in rejected.reason
    assert "SIGILL" in rejected.reason


@pytest.mark.parametrize(
    "piece",
    ["cicc", "ptxas", "fatbinary", "cudafe++", "nvlink", "libdevice.10.bc", "cuda_runtime.h",
     "host_config.h", "libcudart_static.a"],
)  # fmt: skip
def test_a_missing_piece_is_named(sandbox: Sandbox, piece: str) -> None:
    sandbox.toolkit(sandbox.root / "opt/cuda", omit=[piece])
    search = sandbox.find()
    assert search.toolkits == ()
    (rejected,) = search.rejected
    assert rejected.reason.startswith("lacks")
    assert piece in rejected.reason
    assert sandbox.started == []


def test_a_missing_piece_of_the_wheels_is_cured_with_pip(sandbox: Sandbox) -> None:
    sandbox.python_path.append(sandbox.root / "site")
    sandbox.toolkit(sandbox.root / "site/nvidia/cu13", omit=["cuda_runtime.h"])
    (rejected,) = sandbox.find().rejected
    assert "llamabuild[cuda13]" in rejected.hint


def test_the_wheels_of_cuda_12_are_turned_down_because_they_hold_no_nvcc(sandbox: Sandbox) -> None:
    sandbox.python_path.append(sandbox.root / "site")
    sandbox.tool(sandbox.root / "site/nvidia/cuda_nvcc/bin/ptxas", "ptxas", "12.9.86", ())
    (rejected,) = sandbox.find().rejected
    assert "no nvcc" in rejected.reason
    assert "llamabuild[cuda13]" in rejected.hint


# --- Pieces of different versions ----------------------------------------------------------------


def wheels_with(sandbox: Sandbox, crt: str, **pieces: str) -> ToolkitSearch:
    sandbox.python_path.append(sandbox.root / "site")
    sandbox.toolkit(sandbox.root / "site/nvidia/cu13", pieces=pieces)
    (sandbox.root / f"site/nvidia_cuda_crt-{crt}.dist-info").mkdir()
    return sandbox.find()


def test_wheels_of_different_versions_are_turned_down_with_the_pins_that_cure_it(
    sandbox: Sandbox,
) -> None:
    (rejected,) = wheels_with(sandbox, "13.5.37", cicc="13.5.37").rejected
    assert "nvcc is 13.0.88, but cicc is 13.5.37, crt is 13.5.37" in rejected.reason
    assert "nvidia-nvvm==13.0.88" in rejected.hint
    assert "nvidia-cuda-crt==13.0.88" in rejected.hint
    assert "nvidia-cuda-nvcc" not in rejected.hint


def test_crt_headers_alone_of_another_version_are_enough_to_turn_it_down(sandbox: Sandbox) -> None:
    (rejected,) = wheels_with(sandbox, "13.5.37").rejected
    assert rejected.hint == "`pip install nvidia-cuda-crt==13.0.88`"


def test_wheels_of_one_version_are_taken(sandbox: Sandbox) -> None:
    (toolkit,) = wheels_with(sandbox, "13.0.88").toolkits
    assert dict(toolkit.pieces)["crt"] == "13.0.88"


def test_the_runtime_may_be_of_another_minor_version_but_not_of_another_major(
    sandbox: Sandbox,
) -> None:
    sandbox.toolkit(sandbox.root / "usr/local/cuda-a", "13.5.37", pieces={"cudart": "13.0.96"})
    sandbox.toolkit(sandbox.root / "usr/local/cuda-b", "13.5.37", pieces={"cudart": "12.9.79"})
    search = sandbox.find()
    assert [toolkit.root.name for toolkit in search.toolkits] == ["cuda-a"]
    assert [rejected.path.parts[-3] for rejected in search.rejected] == ["cuda-b"]


def test_another_toolkits_tools_on_path_are_not_mistaken_for_its_own(sandbox: Sandbox) -> None:
    sandbox.toolkit(sandbox.root / "opt/cuda", omit=["ptxas"])
    sandbox.tool(sandbox.root / "shims/ptxas", "ptxas", "13.0.88", ())
    sandbox.environ["PATH"] = str(sandbox.root / "shims")
    (rejected,) = sandbox.find().rejected
    assert rejected.reason == "lacks ptxas"


def test_flags_that_the_environment_adds_to_every_nvcc_do_not_reach_the_probes(
    sandbox: Sandbox,
) -> None:
    sandbox.environ |= {"NVCC_APPEND_FLAGS": "-G", "NVCC_PREPEND_FLAGS": "-lineinfo"}
    sandbox.debian_toolkit()
    sandbox.environ["PATH"] = str(sandbox.root / "usr/bin")
    search = sandbox.find()
    assert [toolkit.found_via for toolkit in search.toolkits] == ["PATH"]
    assert search.rejected == ()


# --- Memory --------------------------------------------------------------------------------------


def test_a_second_search_starts_nothing_and_finds_the_same(sandbox: Sandbox) -> None:
    sandbox.debian_toolkit()
    sandbox.toolkit(sandbox.root / "opt/cuda", cublas=True)
    sandbox.environ["PATH"] = str(sandbox.root / "usr/bin")
    first = sandbox.find()
    assert len(first.toolkits) == 2
    assert len(sandbox.started) > 10
    sandbox.log.unlink()
    assert sandbox.find() == first
    assert sandbox.started == []


def test_an_upgraded_tool_is_asked_again(sandbox: Sandbox) -> None:
    sandbox.toolkit(sandbox.root / "opt/cuda")
    sandbox.find()
    sandbox.tool(sandbox.root / "opt/cuda/bin/ptxas", "ptxas", "13.5.37", ())
    (rejected,) = sandbox.find().rejected
    assert "ptxas is 13.5.37" in rejected.reason


def test_a_patched_header_and_newer_tables_are_read_again(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox.toolkit(sandbox.root / "opt/cuda")
    header = sandbox.root / "opt/cuda/include/crt/math_functions.h"
    header.write_text("double cospi(double x);\n")
    assert sandbox.find().toolkits[0].glibc_below == "2.41"
    header.write_text("double cospi(double x) noexcept;\n")
    assert sandbox.find().toolkits[0].glibc_below == ""
    sandbox.log.unlink()
    monkeypatch.setattr(describe, "FACTS", header)
    sandbox.find()
    assert "nvcc" in sandbox.started


def test_a_crash_is_not_remembered(sandbox: Sandbox) -> None:
    sandbox.toolkit(sandbox.root / "opt/cuda")
    trouble = sandbox.root / "no memory left"
    cicc = sandbox.root / "opt/cuda/nvvm/bin/cicc"
    cicc.write_text(
        cicc.read_text().replace("#!/bin/sh", f"#!/bin/sh\ntest ! -e '{trouble}' || exit 1")
    )
    trouble.touch()
    assert sandbox.find().toolkits == ()
    trouble.unlink()
    assert len(sandbox.find().toolkits) == 1


def test_whatever_could_change_the_answer_is_watched(sandbox: Sandbox) -> None:
    sandbox.toolkit(sandbox.root / "usr/local/cuda-13.0")
    sandbox.python_path.append(sandbox.root / "site")
    sandbox.environ |= {"PATH": str(sandbox.root / "bin"), "CUDA_HOME": str(sandbox.root / "home")}
    changes: dict[str, Callable[[], object]] = {
        "a second version beside the first": lambda: sandbox.toolkit(
            sandbox.root / "usr/local/cuda-12.8", "12.8.93"
        ),
        "an nvcc on PATH": lambda: sandbox.program(sandbox.root / "bin/nvcc"),
        "the folder that CUDA_HOME names": lambda: sandbox.toolkit(sandbox.root / "home"),
        "wheels": lambda: sandbox.toolkit(
            sandbox.root / "site/nvidia/cu13", omit=["cuda_runtime.h"]
        ),
        "Debian's package": sandbox.debian_toolkit,
        "a piece that its wheels lacked": lambda: sandbox.file(
            sandbox.root / "site/nvidia/cu13/include/cuda_runtime.h"
        ),
        "crt headers of the right version": lambda: sandbox.file(
            sandbox.root / "site/nvidia_cuda_crt-13.0.88.dist-info/METADATA"
        ),
        "the headers of cuBLAS": lambda: sandbox.file(
            sandbox.root / "site/nvidia/cu13/include/cublas_v2.h"
        ),
        "cuBLAS itself": lambda: sandbox.file(
            sandbox.root / "site/nvidia/cu13/lib/libcublas.so.13"
        ),
        "an upgraded ptxas": lambda: sandbox.tool(
            sandbox.root / "usr/local/cuda-13.0/bin/ptxas", "ptxas", "13.1.1", ()
        ),
    }
    for change, make in changes.items():
        watched = sandbox.find().watched
        before = [identity(path) for path in watched]
        assert [identity(path) for path in sandbox.find().watched] == before
        make()
        assert [identity(path) for path in watched] != before, change


# --- Other machines ------------------------------------------------------------------------------


def test_on_macos_it_says_that_llamafile_uses_metal(sandbox: Sandbox) -> None:
    sandbox.machine = Machine("macos", "aarch64", sandbox.root)
    with pytest.raises(ToolchainError, match="Metal") as caught:
        sandbox.find()
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("target", ["sbsa-linux", "aarch64-linux"])
def test_on_aarch64_the_headers_of_that_target_are_used(sandbox: Sandbox, target: str) -> None:
    sandbox.machine = Machine("linux", "aarch64", sandbox.root)
    top = sandbox.root / "usr/local/cuda-12.6"
    sandbox.toolkit(top, "12.6.85", target="x86_64-linux")
    sandbox.headers(top / f"targets/{target}/include", "12.6.85", 13)
    sandbox.file(top / f"targets/{target}/lib/libcudart_static.a")
    sandbox.file(top / f"targets/{target}/lib/stubs/libcuda.so")
    (toolkit,) = sandbox.find().toolkits
    assert toolkit.include_dir == top / f"targets/{target}/include"
    assert toolkit.driver_stub == top / f"targets/{target}/lib/stubs/libcuda.so"


def windows_toolkit(sandbox: Sandbox, top: Path) -> Path:
    nvcc = sandbox.toolkit(top, "12.8.93", omit=["libcudart_static.a"])
    for name in ("cudart_static.lib", "cuda.lib", "cublas.lib"):
        sandbox.file(top / "lib/x64" / name)
    return nvcc


def test_on_windows_nvcc_exe_is_found_below_program_files(sandbox: Sandbox) -> None:
    sandbox.machine = Machine("windows", "x86_64", sandbox.root)
    programs_folder = sandbox.root / "Program Files"
    sandbox.environ["PROGRAMFILES"] = str(programs_folder)
    top = programs_folder / "NVIDIA GPU Computing Toolkit/CUDA/v12.8"
    nvcc = windows_toolkit(sandbox, top)
    (toolkit,) = sandbox.find().toolkits
    assert nvcc.name == "nvcc.exe"
    assert (toolkit.nvcc, toolkit.found_via) == (nvcc, str(top))
    assert toolkit.driver_stub == top / "lib/x64/cuda.lib"
    assert toolkit.library_dirs[-1] == top / "lib/x64"


def test_on_windows_cublas_needs_its_dll_too(sandbox: Sandbox) -> None:
    sandbox.machine = Machine("windows", "x86_64", sandbox.root)
    top = sandbox.root / "cuda"
    sandbox.environ["CUDA_PATH"] = str(top)
    windows_toolkit(sandbox, top)
    sandbox.file(top / "include/cublas_v2.h")
    sandbox.file(top / "include/cublas_api.h", text="#define CUBLAS_VER_MAJOR 12\n")
    assert sandbox.find().toolkits[0].cublas is None
    sandbox.file(top / "bin/cublas64_12.dll")
    cublas = sandbox.find().toolkits[0].cublas
    assert cublas is not None
    assert (cublas.library.name, cublas.soname) == ("cublas.lib", "cublas64_12.dll")


# --- What a toolkit can be linked with -----------------------------------------------------------


def test_cublas_of_the_wheels_has_no_link_name_and_is_linked_by_its_soname(
    sandbox: Sandbox,
) -> None:
    top = sandbox.root / "opt/cuda"
    sandbox.toolkit(top)
    sandbox.cublas(top / "include", top / "lib", link_name=False)
    cublas = sandbox.find().toolkits[0].cublas
    assert cublas is not None
    assert (cublas.library, cublas.soname) == (top / "lib/libcublas.so.13", "libcublas.so.13")
    assert (cublas.version, cublas.include_dir) == ("13.0.2", top / "include")


def test_cublas_is_linked_by_its_link_name_where_there_is_one(sandbox: Sandbox) -> None:
    top = sandbox.root / "opt/cuda"
    sandbox.toolkit(top, cublas=True)
    cublas = sandbox.find().toolkits[0].cublas
    assert cublas is not None
    assert (cublas.library, cublas.soname) == (top / "lib/libcublas.so", "libcublas.so.13")


@pytest.mark.parametrize("missing", ["include/cublas_v2.h", "lib/libcublas.so.13"])
def test_half_of_cublas_is_none(sandbox: Sandbox, missing: str) -> None:
    top = sandbox.root / "opt/cuda"
    sandbox.toolkit(top)
    sandbox.cublas(top / "include", top / "lib", link_name=False)
    (top / missing).unlink()
    assert sandbox.find().toolkits[0].cublas is None


def test_the_driver_is_linked_against_the_toolkits_stub_then_the_driver_then_debians_stub(
    sandbox: Sandbox,
) -> None:
    top = sandbox.root / "opt/cuda"
    sandbox.toolkit(top)
    libraries = sandbox.root / "usr/lib/x86_64-linux-gnu"

    def stub() -> Path | None:
        return sandbox.find().toolkits[0].driver_stub

    assert stub() is None
    for better in (
        libraries / "stubs/libcuda.so",
        sandbox.root / "usr/lib/wsl/lib/libcuda.so.1",
        libraries / "libcuda.so",
        top / "lib/stubs/libcuda.so",
    ):
        sandbox.file(better)
        assert stub() == better


def test_this_machine_is_known() -> None:
    here = Machine.here()
    assert here.root == Path("/")
    assert here.system in {"linux", "macos", "windows"}
    assert here.processor
    assert here.processor not in {"amd64", "arm64"}


def test_without_memory_everything_is_asked_again(sandbox: Sandbox) -> None:
    sandbox.memo = Memo(None)
    sandbox.toolkit(sandbox.root / "opt/cuda")
    first = sandbox.find()
    assert sandbox.find() == first
    assert sandbox.started.count("nvcc") == 4
