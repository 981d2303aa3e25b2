"""``llamabuild env`` and ``llamabuild run``."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamabuild import cli, run
from llamabuild.cli.parser import parse
from llamabuild.cli.shells import SHELLS, script
from llamabuild.errors import ArchitectureError
from llamabuild.events import Note
from llamabuild.pipeline import Environment, Setting
from llamabuild.pipeline.environment import Fate
from llamabuild.probe import Gpu

CARD = Gpu("amd", 0, "RX 6700 XT", "gfx1031", 2**34, "6.8", "KFD", "", node=1)
PROCESSOR = replace(CARD, index=1, name="Radeon Graphics", arch="gfx1036", node=2)
FOUND = Environment(
    backend="hip",
    module=None,
    settings=(
        Setting("HSA_OVERRIDE_GFX_VERSION", "10.3.0", "it passes for its kin"),
        Setting("HIP_VISIBLE_DEVICES", "0", "the other is left out"),
        Setting("HSA_OVERRIDE_GFX_VERSION_1", None, "it is in the way"),
    ),
    fates=(Fate(CARD, "override"), Fate(PROCESSOR, "no", left_out=True)),
    notes=(Note("warning", "mind the registers"),),
)
NOTHING = replace(FOUND, settings=(), fates=(Fate(CARD, "native"),), notes=())

Answer = Callable[[Environment | Exception], None]


@pytest.fixture
def finds(monkeypatch: pytest.MonkeyPatch) -> Answer:
    """Set what is found out about the machine."""

    def answer(found: Environment | Exception) -> None:
        def environment(*_: object) -> Environment:
            if isinstance(found, Exception):
                raise found
            return found

        monkeypatch.setattr("llamabuild.pipeline.environment", environment)

    return answer


# --- env ------------------------------------------------------------------------------------------


def test_stdout_is_for_the_shell_and_stderr_for_the_user(
    finds: Answer, capsys: pytest.CaptureFixture[str]
) -> None:
    finds(FOUND)
    assert cli.main(["env", "--shell", "sh"]) == 0
    out, err = capsys.readouterr()
    assert out == (
        "export HSA_OVERRIDE_GFX_VERSION=10.3.0\n"
        "export HIP_VISIBLE_DEVICES=0\n"
        "unset HSA_OVERRIDE_GFX_VERSION_1\n"
    )
    assert "HSA_OVERRIDE_GFX_VERSION = 10.3.0: it passes for its kin" in err
    assert "HSA_OVERRIDE_GFX_VERSION_1 is unset: it is in the way" in err
    assert "mind the registers" in err


def test_quietly_there_is_nothing_but_the_settings(
    finds: Answer, capsys: pytest.CaptureFixture[str]
) -> None:
    finds(replace(FOUND, notes=()))
    assert cli.main(["env", "-q", "--shell", "fish"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("set -gx HSA_OVERRIDE_GFX_VERSION '10.3.0'\n")
    assert err == ""


def test_nothing_to_set_is_said_and_nothing_printed(
    finds: Answer, capsys: pytest.CaptureFixture[str]
) -> None:
    finds(NOTHING)
    assert cli.main(["env"]) == 0
    out, err = capsys.readouterr()
    assert (out, err) == ("", "nothing has to be set\n")


def test_docker_is_told_by_arguments(finds: Answer, capsys: pytest.CaptureFixture[str]) -> None:
    finds(FOUND)
    assert cli.main(["env", "--shell", "docker"]) == 0
    out, err = capsys.readouterr()
    assert out == "--env=HSA_OVERRIDE_GFX_VERSION=10.3.0\n--env=HIP_VISIBLE_DEVICES=0\n"
    assert "--device=/dev/kfd --device=/dev/dri" in err


def test_json(finds: Answer, capsys: pytest.CaptureFixture[str]) -> None:
    finds(FOUND)
    assert cli.main(["env", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["set"] == {"HSA_OVERRIDE_GFX_VERSION": "10.3.0", "HIP_VISIBLE_DEVICES": "0"}
    assert document["unset"] == ["HSA_OVERRIDE_GFX_VERSION_1"]
    assert [gpu["runs"] for gpu in document["gpus"]] == ["override", "no"]
    assert [gpu["left_out"] for gpu in document["gpus"]] == [False, True]
    assert document["schema"] == 1


def test_no_gpu_is_an_error_of_its_own(finds: Answer, capsys: pytest.CaptureFixture[str]) -> None:
    finds(ArchitectureError("there is no AMD GPU", hint="buy one"))
    assert cli.main(["env"]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert "there is no AMD GPU" in err


def test_a_module_that_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["env", str(tmp_path / "absent.so")]) == 2
    assert "does not exist" in capsys.readouterr().err


# --- shells ---------------------------------------------------------------------------------------

HOSTILE = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


@pytest.mark.skipif(sys.platform == "win32", reason="needs /bin/sh")
@pytest.mark.parametrize("value", ["10.3.0", "a b", "it's", "$HOME", "`id`", '"', "\\", "a\nb", ""])
def test_a_shell_reads_what_was_meant(value: str) -> None:
    text = script([Setting("NAME", value, ""), Setting("GONE", None, "")], "sh")
    check = f'{text}printf "%s|%s" "$NAME" "${{GONE-unset}}"'
    result = run.capture(["/bin/sh", "-c", check], env={"GONE": "1"}, timeout=30)
    assert result.stdout == f"{value}|unset"


@given(HOSTILE)
def test_no_value_gets_out_of_its_quotes(value: str) -> None:
    setting = Setting("NAME", value, "")
    assert shlex.split(script([setting], "sh")) == ["export", f"NAME={value}"]
    fish = script([setting], "fish").removeprefix("set -gx NAME '").removesuffix("'\n")
    assert fish.replace("\\\\", "").replace("\\'", "").find("'") == -1
    power = script([setting], "powershell").removeprefix("$env:NAME = '").removesuffix("'\n")
    assert power.replace("''", "").find("'") == -1
    assert power.replace("''", "'") == value


def test_what_goes_in_each_shell() -> None:
    gone = Setting("NAME", None, "")
    assert {shell: script([gone], shell) for shell in SHELLS} == {
        "sh": "unset NAME\n",
        "fish": "set -e NAME\n",
        "powershell": "Remove-Item Env:NAME -ErrorAction SilentlyContinue\n",
        "docker": "",
    }


# --- run ------------------------------------------------------------------------------------------


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], dict[str, str]]]:
    """What would have been started."""
    programs: list[tuple[list[str], dict[str, str]]] = []

    def become(argv: Sequence[str], *, env: Mapping[str, str]) -> int:
        programs.append((list(argv), dict(env)))
        return 37

    monkeypatch.setattr("llamabuild.cli.commands.running.become", become)
    return programs


Started = list[tuple[list[str], dict[str, str]]]


def test_the_program_is_started_with_the_settings(
    finds: Answer,
    started: Started,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    finds(FOUND)
    monkeypatch.setenv("HSA_OVERRIDE_GFX_VERSION_1", "11.0.0")
    assert cli.main(["run", "--", "./x.llamafile", "-ngl", "99", "--json"]) == 37
    ((argv, env),) = started
    assert argv == ["./x.llamafile", "-ngl", "99", "--json"]
    assert env["HSA_OVERRIDE_GFX_VERSION"] == "10.3.0"
    assert env["HIP_VISIBLE_DEVICES"] == "0"
    assert "HSA_OVERRIDE_GFX_VERSION_1" not in env
    assert env["HOME"] == os.environ["HOME"]
    out, err = capsys.readouterr()
    assert out == ""
    assert "HSA_OVERRIDE_GFX_VERSION = 10.3.0" in err


def test_without_a_gpu_it_is_started_as_it_is(
    finds: Answer, started: Started, capsys: pytest.CaptureFixture[str]
) -> None:
    finds(ArchitectureError("there is no AMD GPU"))
    assert cli.main(["run", "./x.llamafile"]) == 37
    ((_, env),) = started
    assert env == dict(os.environ)
    assert "started as it is: there is no AMD GPU" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [[], ["--"], ["-q", "--"]])
def test_there_is_no_program(
    argv: list[str], finds: Answer, capsys: pytest.CaptureFixture[str]
) -> None:
    finds(NOTHING)
    assert cli.main(["run", *argv]) == 2
    assert "run needs a program" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "words", "hint"),
    [
        ("no-such-program", "no-such-program is not on PATH", "llamabuild run -- ./some.llamafile"),
        ("here", "here is not on PATH", "llamabuild run -- ./here"),
        ("./plain", "Permission denied", "chmod +x ./plain"),
        ("./folder", "Permission denied", "not a folder"),
        ("./absent", "No such file", "./some.llamafile"),
    ],
)
def test_a_program_that_cannot_be_started(name: str, words: str, hint: str, tmp_path: Path) -> None:
    for file, mode in (("plain", 0o644), ("here", 0o755)):
        (tmp_path / file).write_text("echo\n")
        (tmp_path / file).chmod(mode)
    (tmp_path / "folder").mkdir()
    result = called("run", name, cwd=tmp_path)
    assert result.returncode == 2
    assert words in result.stderr
    assert hint in result.stderr


@pytest.mark.parametrize(
    ("argv", "own", "program"),
    [
        (["--", "./x", "-q"], {}, ["./x", "-q"]),
        (["./x", "-q"], {}, ["./x", "-q"]),
        (["./x", "--", "-y"], {}, ["./x", "--", "-y"]),
        (["-q", "--module", "m.so", "./x"], {"quiet": True, "given_module": "m.so"}, ["./x"]),
        (["--module=m.so", "--", "--"], {"given_module": "m.so"}, ["--"]),
        (["--backend", "hip", "--", "./x", "--module"], {"backend": "hip"}, ["./x", "--module"]),
    ],
)
def test_which_words_are_whose(argv: list[str], own: dict[str, Any], program: list[str]) -> None:
    said = {name: value for name, value in vars(parse(["run", *argv])).items() if value}
    assert said.pop("command") == "run"
    assert said.pop("program") == program
    assert said == own


def called(*argv: str, cwd: Path | None = None) -> run.Completed:
    """The command as a process of its own; it finds no AMD GPU, or finds one. Either will do."""
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    return run.capture([sys.executable, "-m", "llamabuild", *argv], env=env, cwd=cwd, timeout=120)


@pytest.mark.skipif(sys.platform == "win32", reason="the programs are shell scripts")
class TestAsAProcess:
    def test_the_exit_code_and_the_output_are_the_programs(self) -> None:
        result = called("run", "-q", "--", "/bin/sh", "-c", 'echo "$0"; exit 37', "a b")
        assert (result.returncode, result.stdout) == (37, "a b\n")

    def test_the_programs_options_are_not_ours(self) -> None:
        result = called("run", "--", "no-such-program", "--json", "-q")
        assert result.returncode == 2
        assert result.stdout == ""
        assert "no-such-program is not on PATH" in result.stderr

    def test_a_signal_that_ends_the_program_ends_this(self) -> None:
        result = called("run", "--", "/bin/sh", "-c", "kill -SEGV $$")
        assert result.returncode == -signal.SIGSEGV

    def test_an_executable_without_a_format_goes_to_the_shell(self, tmp_path: Path) -> None:
        program = tmp_path / "x.llamafile"
        program.write_text("MZqFpD='\n'\nexit 9\n")
        program.chmod(0o755)
        assert called("run", "./x.llamafile", cwd=tmp_path).returncode == 9
