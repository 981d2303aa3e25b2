"""Finding the host compiler that a toolkit accepts."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamabuild.errors import ToolchainError
from llamabuild.toolchain import HostCompiler, Toolkit, find_host_compiler, programs

from .conftest import Sandbox, make_toolkit

CUDA11 = make_toolkit("11.8.89", [61], gcc_max=11, clang_max=14, glibc_below="2.41")
CUDA13 = make_toolkit("13.0.88", [90], gcc_max=15, clang_max=20)
CUDA99 = make_toolkit("99.0.1", [90])


@pytest.fixture
def bin_dir(sandbox: Sandbox) -> Path:
    folder = sandbox.root / "usr/bin"
    folder.mkdir(parents=True)
    sandbox.environ["PATH"] = str(folder)
    return folder


def find(sandbox: Sandbox, toolkit: Toolkit, explicit: str | None = None) -> HostCompiler:
    return find_host_compiler(
        toolkit, sandbox.environ, explicit=explicit, memo=sandbox.memo, machine=sandbox.machine
    )


def refusal(sandbox: Sandbox, toolkit: Toolkit, explicit: str | None = None) -> ToolchainError:
    with pytest.raises(ToolchainError) as caught:
        find(sandbox, toolkit, explicit)
    assert caught.value.exit_code == 4
    assert caught.value.hint
    return caught.value


def test_plain_gxx_is_taken_where_the_toolkit_accepts_it(sandbox: Sandbox, bin_dir: Path) -> None:
    sandbox.compiler(bin_dir / "g++", "12.2.0")
    sandbox.compiler(bin_dir / "g++-15", "15.1.0")
    compiler = find(sandbox, CUDA13)
    assert (compiler.path, compiler.cc) == (bin_dir / "g++", bin_dir / "gcc")
    assert (compiler.kind, compiler.version, compiler.major) == ("gcc", "12.2.0", 12)
    assert (compiler.found_via, compiler.glibc, compiler.notes) == ("PATH", "2.36", ())


def test_where_gxx_is_too_new_the_newest_that_is_accepted_is_taken_with_a_note(
    sandbox: Sandbox, bin_dir: Path
) -> None:
    sandbox.compiler(bin_dir / "g++", "12.2.0")
    for major in (9, 10, 11, 12, 13):
        sandbox.compiler(bin_dir / f"g++-{major}", f"{major}.3.0")
    compiler = find(sandbox, CUDA11)
    assert (compiler.path, compiler.cc) == (bin_dir / "g++-11", bin_dir / "gcc-11")
    (note,) = compiler.notes
    assert "gcc 12.2.0, too new for CUDA 11.8.89, which accepts up to 11" in note


def test_one_folder_by_two_names_is_told_once(sandbox: Sandbox, bin_dir: Path) -> None:
    sandbox.compiler(bin_dir / "g++", "12.2.0")
    sandbox.compiler(bin_dir / "g++-11", "11.3.0")
    (sandbox.root / "bin").symlink_to("usr/bin")
    sandbox.environ["PATH"] += f":{sandbox.root / 'bin'}"
    assert len(find(sandbox, CUDA11).notes) == 1


def test_red_hats_toolset_is_found_off_path(sandbox: Sandbox, bin_dir: Path) -> None:
    sandbox.compiler(bin_dir / "g++", "12.2.0")
    gxx = sandbox.compiler(
        sandbox.root / "opt/rh/gcc-toolset-11" / "root" / "usr/bin/g++", "11.2.1"
    )
    compiler = find(sandbox, CUDA11)
    assert (compiler.path, compiler.found_via) == (gxx, "gcc-toolset-11")


def test_clang_is_taken_where_no_gxx_fits(sandbox: Sandbox, bin_dir: Path) -> None:
    sandbox.compiler(bin_dir / "g++", "12.2.0")
    sandbox.compiler(bin_dir / "clang++", "15.0.6", kind="clang")
    sandbox.compiler(bin_dir / "clang++-14", "14.0.6", kind="clang")
    compiler = find(sandbox, CUDA11)
    assert (compiler.path, compiler.cc) == (bin_dir / "clang++-14", bin_dir / "clang-14")
    assert (compiler.kind, compiler.version) == ("clang", "14.0.6")


def test_when_all_are_too_new_the_error_names_the_packages(sandbox: Sandbox, bin_dir: Path) -> None:
    sandbox.compiler(bin_dir / "g++", "12.2.0")
    error = refusal(sandbox, CUDA11)
    assert "too new for CUDA 11.8.89" in error.message
    for package in ("g++-11", "gcc11-c++", "gxx_linux-64=11"):
        assert package in error.hint


def test_with_no_compiler_at_all_the_error_says_so(sandbox: Sandbox, bin_dir: Path) -> None:
    error = refusal(sandbox, CUDA11)
    assert "no C++ compiler was found" in error.message
    assert "accepts g++ up to 11" in error.message
    assert "apt install g++`" in error.hint
    assert "any version" in refusal(sandbox, CUDA99).message


def test_a_toolkit_without_a_known_limit_takes_what_is_there(
    sandbox: Sandbox, bin_dir: Path
) -> None:
    sandbox.compiler(bin_dir / "g++-17", "17.1.0")
    assert find(sandbox, CUDA99).major == 17


# --- Named by the user ---------------------------------------------------------------------------


def test_variables_go_before_path_in_their_order(sandbox: Sandbox, bin_dir: Path) -> None:
    sandbox.compiler(bin_dir / "g++", "12.2.0")
    for variable, major in (("CXX", 13), ("NVCC_CCBIN", 14), ("CUDAHOSTCXX", 15)):
        gxx = sandbox.compiler(sandbox.root / variable / "g++", f"{major}.1.0")
        sandbox.environ[variable] = str(gxx)
        compiler = find(sandbox, CUDA13)
        assert (compiler.path, compiler.found_via) == (gxx, variable)


def test_the_option_goes_before_every_variable(sandbox: Sandbox, bin_dir: Path) -> None:
    sandbox.environ["CUDAHOSTCXX"] = str(sandbox.compiler(bin_dir / "g++", "12.2.0"))
    sandbox.compiler(bin_dir / "g++-13", "13.1.0")
    compiler = find(sandbox, CUDA13, "g++-13")
    assert (compiler.path, compiler.found_via) == (bin_dir / "g++-13", "--host-compiler")


@pytest.mark.parametrize("value", ["g++-13", "ccache g++-13", "ccache g++-13 -m64", "{bin}/g++-13"])
def test_a_compiler_may_be_named_as_makefiles_do(
    sandbox: Sandbox, bin_dir: Path, value: str
) -> None:
    gxx = sandbox.compiler(bin_dir / "g++-13", "13.1.0")
    sandbox.environ["CXX"] = value.format(bin=bin_dir)
    assert find(sandbox, CUDA13).path == gxx


def test_a_path_with_spaces_and_quotes_is_one_compiler(sandbox: Sandbox, bin_dir: Path) -> None:
    gxx = sandbox.compiler(sandbox.root / "my 'gcc' ü" / "g++", "13.1.0")
    assert find(sandbox, CUDA13, str(gxx)).path == gxx


def test_conda_compilers_have_their_c_compiler_beside_them(sandbox: Sandbox, bin_dir: Path) -> None:
    gxx = sandbox.compiler(bin_dir / "x86_64-conda-linux-gnu-c++", "13.4.0", glibc="2.17")
    sandbox.environ["CXX"] = gxx.name
    assert find(sandbox, CUDA13).cc == bin_dir / "x86_64-conda-linux-gnu-cc"


def test_a_variable_that_does_not_fit_this_toolkit_is_passed_over_with_a_note(
    sandbox: Sandbox, bin_dir: Path
) -> None:
    sandbox.environ["CUDAHOSTCXX"] = str(sandbox.compiler(bin_dir / "g++-12", "12.2.0"))
    sandbox.compiler(bin_dir / "g++-11", "11.3.0")
    compiler = find(sandbox, CUDA11)
    assert compiler.path == bin_dir / "g++-11"
    assert "CUDAHOSTCXX" in compiler.notes[0]


def test_the_option_is_an_order_and_not_fitting_is_an_error(
    sandbox: Sandbox, bin_dir: Path
) -> None:
    sandbox.compiler(bin_dir / "g++", "12.2.0")
    sandbox.compiler(bin_dir / "g++-11", "11.3.0")
    error = refusal(sandbox, CUDA11, "g++")
    assert "--host-compiler" in error.message
    assert "too new" in error.message
    assert "leave --host-compiler out" in error.hint


@pytest.mark.parametrize("value", ["g++-13", "/nowhere/g++", "--m64"])
def test_an_option_that_names_nothing_is_an_error(
    sandbox: Sandbox, bin_dir: Path, value: str
) -> None:
    sandbox.compiler(bin_dir / "g++", "12.2.0")
    refusal(sandbox, CUDA13, value)


# --- Broken --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["kill -SEGV $$"], "crashed (SIGSEGV)"),
        (["exec /bin/sleep 60"], "gave no answer"),
        (["echo 'features.h: No such file' >&2", "exit 1"], "features.h: No such file"),
        (["echo hello"], "neither g++ nor clang++"),
    ],
)
def test_a_broken_compiler_is_passed_over_for_one_that_works(
    sandbox: Sandbox, bin_dir: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str], reason: str
) -> None:
    monkeypatch.setattr(programs, "PROBE_SECONDS", 0.5)
    sandbox.program(sandbox.compiler(bin_dir / "g++", "12.2.0"), *lines)
    assert reason in refusal(sandbox, CUDA13).message
    sandbox.compiler(bin_dir / "g++-13", "13.1.0")
    compiler = find(sandbox, CUDA13)
    assert compiler.path == bin_dir / "g++-13"
    assert reason in compiler.notes[0]


def test_intels_compiler_is_turned_down(sandbox: Sandbox, bin_dir: Path) -> None:
    sandbox.compiler(
        bin_dir / "g++", "19.0.0", kind="clang", extra="#define __INTEL_LLVM_COMPILER 20250000"
    )
    assert "Intel" in refusal(sandbox, CUDA13).message


def test_a_compiler_without_its_c_half_is_passed_over(sandbox: Sandbox, bin_dir: Path) -> None:
    sandbox.compiler(bin_dir / "g++", "12.2.0")
    (bin_dir / "gcc").unlink()
    assert "no C compiler beside it" in refusal(sandbox, CUDA13).message


# --- The C library -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("glibc", "fits"), [("2.36", True), ("2.40", True), ("2.41", False), ("2.5", True), ("", True)]
)
def test_a_c_library_that_the_toolkits_headers_contradict_is_refused(
    sandbox: Sandbox, bin_dir: Path, glibc: str, fits: bool
) -> None:
    sandbox.compiler(bin_dir / "g++", "11.3.0", glibc=glibc)
    if fits:
        assert find(sandbox, CUDA11).glibc == glibc
    else:
        error = refusal(sandbox, CUDA11)
        assert "glibc 2.41" in error.message
        assert "llamabuild[cuda13]" in error.hint


def test_a_compiler_with_an_older_c_library_of_its_own_gets_around_it(
    sandbox: Sandbox, bin_dir: Path
) -> None:
    sandbox.compiler(bin_dir / "g++", "11.3.0", glibc="2.41")
    sandbox.environ["CXX"] = str(
        sandbox.compiler(
            sandbox.root / "env/bin/x86_64-conda-linux-gnu-g++", "11.4.0", glibc="2.17"
        )
    )
    assert find(sandbox, CUDA11).glibc == "2.17"


# --- Memory --------------------------------------------------------------------------------------


def test_a_compiler_is_asked_once_and_again_when_it_changed(
    sandbox: Sandbox, bin_dir: Path
) -> None:
    sandbox.compiler(bin_dir / "g++", "12.2.0")
    first = find(sandbox, CUDA13)
    assert find(sandbox, CUDA13) == first
    assert sandbox.started == ["g++"]
    sandbox.compiler(bin_dir / "g++", "13.3.10")
    assert find(sandbox, CUDA13).version == "13.3.10"
    assert len(sandbox.started) == 2
    sandbox.file(sandbox.root / "usr/include/features.h", text="a newer C library")
    find(sandbox, CUDA13)
    assert len(sandbox.started) == 3
