"""Microsoft's compiler, on a fake Windows: vswhere and cmd.exe are small scripts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamabuild.errors import ToolchainError
from llamabuild.toolchain import (
    HostCompiler,
    Machine,
    Toolkit,
    compiler_environment,
    find_host_compiler,
)
from llamabuild.toolchain.msvc import MARKER, msc_ver, parse_environment

from .conftest import Sandbox, make_toolkit, says

CUDA11 = make_toolkit("11.8.89", [61], msvc=(1910, 1940))
CUDA13 = make_toolkit("13.0.88", [90], msvc=(1920, 1950))


class Windows:
    """A fake Windows with Visual Studios; ``studio`` adds one with some VC tools."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        sandbox.machine = Machine("windows", "x86_64", sandbox.root)
        self.programs = sandbox.root / "Program Files (x86)"
        self.shell = sandbox.root / "cmd.exe"
        self.installations: list[str] = []
        sandbox.environ |= {
            "PROGRAMFILES(X86)": str(self.programs),
            "COMSPEC": str(self.shell),
            "PATH": f"{sandbox.root / 'windows'}",
        }
        self.command_prompt(
            'PATH=/vc/bin:/sdk/bin:\'"$PATH"', "INCLUDE=C:\\VC\\ü\\include", "Lib=x"
        )

    def studio(self, name: str, *versions: str) -> Path:
        installation = self.programs / "Microsoft Visual Studio" / name
        for version in versions:
            cl = installation / "VC/Tools/MSVC" / version / "bin/Hostx64/x64/cl.exe"
            self.sandbox.program(cl)
        self.sandbox.file(installation / "Common7/Tools/VsDevCmd.bat")
        self.installations.append(str(installation))
        vswhere = self.programs / "Microsoft Visual Studio/Installer/vswhere.exe"
        self.sandbox.program(vswhere, says(*self.installations))
        return installation

    def command_prompt(self, path: str, *variables: str) -> None:
        """cmd.exe keeps the batch file it is given, and prints what Visual Studio's would."""
        self.batch = self.sandbox.root / "batch.txt"
        keep = f'while IFS= read -r line; do echo "$line"; done < ask.bat > "{self.batch}"'
        path = path.replace("'", "")
        self.sandbox.program(
            self.shell, keep, says("** banner **", MARKER), f"echo {path}", says(*variables)
        )

    def find(self, toolkit: Toolkit, explicit: str | None = None) -> HostCompiler:
        return find_host_compiler(
            toolkit,
            self.sandbox.environ,
            explicit=explicit,
            memo=self.sandbox.memo,
            machine=self.sandbox.machine,
        )


@pytest.fixture
def windows(sandbox: Sandbox) -> Windows:
    return Windows(sandbox)


def test_the_newest_tools_that_the_toolkit_accepts_are_taken(windows: Windows) -> None:
    old = windows.studio("2019/Community", "14.29.30133")
    new = windows.studio("2022/BuildTools", "14.38.33130", "14.44.35207", "14.9.1")
    for toolkit, installation, version in (
        (CUDA13, new, "14.44.35207"),
        (CUDA11, new, "14.38.33130"),
        (make_toolkit("11.0.1", [61], msvc=(1910, 1930)), old, "14.29.30133"),
    ):
        compiler = windows.find(toolkit)
        assert compiler.path == installation / f"VC/Tools/MSVC/{version}/bin/Hostx64/x64/cl.exe"
        assert (compiler.kind, compiler.version, compiler.found_via) == ("msvc", version, "vswhere")
        assert f"-vcvars_ver={version}" in windows.batch.read_text()


def test_the_environment_of_visual_studios_script_is_kept_without_what_was_there_before(
    windows: Windows,
) -> None:
    windows.studio("2022/Community", "14.44.35207")
    compiler = windows.find(CUDA13)
    assert dict(compiler.environment) == {
        "INCLUDE": "C:\\VC\\ü\\include",
        "LIB": "x",
        "PATH": os.pathsep.join(["/vc/bin", "/sdk/bin"]),
    }
    child = compiler_environment(CUDA13, compiler, windows.sandbox.environ)
    assert child["INCLUDE"] == "C:\\VC\\ü\\include"
    assert child["PATH"].split(os.pathsep)[-3:] == [
        "/vc/bin", "/sdk/bin", str(windows.sandbox.root / "windows"),
    ]  # fmt: skip


def test_the_script_is_called_with_its_path_quoted_and_told_to_print_utf_8(
    windows: Windows,
) -> None:
    installation = windows.studio("2022/Community", "14.44.35207")
    windows.find(CUDA13)
    batch = windows.batch.read_text()
    assert f'@call "{installation}/Common7/Tools/VsDevCmd.bat"' in batch
    assert "-arch=x64" in batch
    assert batch.startswith("@chcp 65001")


def test_the_script_runs_once(windows: Windows) -> None:
    windows.studio("2022/Community", "14.44.35207")
    first = windows.find(CUDA13)
    windows.sandbox.environ["PATH"] += ":/elsewhere"
    assert windows.find(CUDA13) == first
    assert windows.sandbox.started.count("cmd.exe") == 1


def test_in_a_developers_prompt_its_own_compiler_is_taken_as_it_is(windows: Windows) -> None:
    windows.studio("2022/Community", "14.44.35207")
    cl = windows.sandbox.program(windows.sandbox.root / "prompt/cl.exe")
    windows.sandbox.environ |= {"VCTOOLSVERSION": "14.40.33807", "PATH": str(cl.parent)}
    compiler = windows.find(CUDA13)
    assert (compiler.path, compiler.version, compiler.environment) == (cl, "14.40.33807", ())
    assert windows.sandbox.started == []
    assert windows.find(make_toolkit("13", [90], msvc=(1944, 1950))).version == "14.44.35207"


def test_a_cl_exe_may_be_named(windows: Windows) -> None:
    windows.studio("2022/Community", "14.38.33130", "14.44.35207")
    (cl,) = windows.programs.rglob("14.38*/bin/Hostx64/x64/cl.exe")
    compiler = windows.find(CUDA13, str(cl))
    assert (compiler.path, compiler.found_via) == (cl, "--host-compiler")


@pytest.mark.parametrize("explicit", [None, "C:\\somewhere\\cl.exe"])
def test_no_visual_studio_is_an_error_that_says_how_to_get_one(
    windows: Windows, explicit: str | None
) -> None:
    with pytest.raises(ToolchainError, match="vswhere") as caught:
        windows.find(CUDA13, explicit)
    assert caught.value.exit_code == 4
    assert "winget install" in caught.value.hint


def test_tools_that_are_too_new_are_an_error_that_lists_them(windows: Windows) -> None:
    windows.studio("18/Community", "14.50.35700")
    with pytest.raises(ToolchainError, match="from 1920 to below 1950") as caught:
        windows.find(CUDA13)
    assert "is MSVC 1950" in caught.value.message
    assert "Visual Studio Installer" in caught.value.hint


def test_a_visual_studio_without_cpp_tools_is_none(windows: Windows) -> None:
    windows.studio("2022/Community")
    with pytest.raises(ToolchainError, match="vswhere"):
        windows.find(CUDA13)


@pytest.mark.parametrize("broken", ["cmd.exe", "vswhere.exe"])
def test_a_script_that_fails_is_an_error(windows: Windows, broken: str) -> None:
    windows.studio("2022/Community", "14.44.35207")
    (program,) = windows.sandbox.root.rglob(broken)
    windows.sandbox.program(program, "echo boom; exit 1")
    with pytest.raises(ToolchainError, match="boom") as caught:
        windows.find(CUDA13)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("version", "number"), [("14.16.27023", 1916), ("14.29.30133", 1929), ("14.44.35207", 1944)]
)
def test_the_number_that_headers_compare_follows_from_the_tools_version(
    version: str, number: int
) -> None:
    assert msc_ver(version) == number


VALUES = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1)


@settings(deadline=None)
@given(st.dictionaries(st.from_regex(r"[A-OQ-Z_]{1,8}", fullmatch=True), VALUES))
def test_variables_survive_the_trip_through_the_command_prompt(variables: dict[str, str]) -> None:
    listing = "\r\n".join(f"{name.title()}={value}" for name, value in variables.items())
    expected = {}
    for name, value in variables.items():
        expected[name.upper()] = value
    assert dict(parse_environment(f"noise=1\r\n{MARKER}\r\n{listing}\r\n", {})) == expected


@settings(deadline=None)
@given(st.text())
def test_any_output_at_all_gives_some_variables(text: str) -> None:
    parse_environment(text, {})
    parse_environment(MARKER + text, {"PATH": "x"})
