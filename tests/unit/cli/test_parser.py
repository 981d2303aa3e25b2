from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamabuild import __version__, errors
from llamabuild.cli import commands
from llamabuild.cli.parser import parse
from llamabuild.errors import UsageError
from llamabuild.settings import COMMANDS, OPTIONS


def said(*argv: str) -> dict[str, Any]:
    """The command, and all that was said beside it."""
    return {name: value for name, value in vars(parse(argv)).items() if value is not None}


def refused(*argv: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        parse(argv)
    return caught.value


class TestCommand:
    @pytest.mark.parametrize("argv", [[], ["--"]])
    def test_is_build_by_default(self, argv: list[str]) -> None:
        assert said(*argv) == {"command": "build"}

    def test_is_build_when_only_options_are_given(self) -> None:
        assert said("--arch", "61", "-q") == {"command": "build", "arch": "61", "quiet": True}

    def test_may_be_the_value_of_an_option(self) -> None:
        assert said("--source", "detect") == {"command": "build", "source": "detect"}

    @pytest.mark.parametrize("name", COMMANDS)
    def test_has_no_options_unless_they_are_named(self, name: str) -> None:
        arguments = {
            "inspect": ["file"],
            "cache": ["list"],
            "install": ["a.llamafile"],
            "embed": ["a.llamafile"],
            "rollback": ["a.llamafile"],
        }.get(name, [])
        parsed = vars(parse([name, *arguments]))
        assert parsed.pop("command") == name
        options = {option.name for option in OPTIONS if name in option.commands}
        assert {key: parsed[key] for key in options} == dict.fromkeys(options)

    def test_arguments(self) -> None:
        assert said("inspect", "a b.so") == {"command": "inspect", "file": "a b.so"}
        assert said("cache", "list") == {"command": "cache", "action": "list"}
        assert said("cache", "path", "12ab")["key"] == "12ab"

    @pytest.mark.parametrize(
        ("argv", "name"),
        [
            (["inspect", ""], "FILE"),
            (["inspect", "a.so", ""], "OTHER"),
            (["install", ""], "LLAMAFILE"),
            (["status", "a", ""], "PATHS"),
            (["cache", "path", ""], "KEY"),
            (["run", "--", ""], "PROGRAM"),
        ],
    )
    def test_none_is_empty(self, argv: list[str], name: str) -> None:
        """``install "$UNSET"`` is not about the working folder."""
        assert refused(*argv).message == f"{name} is empty"

    def test_an_argument_of_a_program_may_be_empty(self) -> None:
        assert said("run", "--", "echo", "")["program"] == ["echo", ""]

    def test_a_file_that_begins_with_a_dash(self) -> None:
        assert said("inspect", "--", "-odd.so")["file"] == "-odd.so"


def test_every_command_does_something() -> None:
    assert commands.COMMANDS.keys() == COMMANDS.keys()
    assert all(callable(commands.command(name)) for name in COMMANDS)


class TestOptions:
    @pytest.mark.parametrize(
        ("argv", "expected"),
        [
            ("--force-mmq", {"force_mmq": True}),
            ("--no-force-mmq", {"force_mmq": False}),
            ("--fast-math", {"fast_math": True}),
            ("--no-fast-math", {"fast_math": False}),
            ("--no-iq", {"no_iq": True}),
            ("-vv", {"verbose": 2}),
            ("-v --verbose", {"verbose": 2}),
            ("-j8", {"jobs": "8"}),
            ("-j 8", {"jobs": "8"}),
            ("--jobs=8", {"jobs": "8"}),
            ("-o out", {"output": "out"}),
            ("-DA -D B=1 --define C=", {"defines": ["A", "B=1", "C="]}),
            (
                "--nvcc-flag=-lineinfo --nvcc-flag=-Xptxas=-v",
                {"nvcc_flags": ["-lineinfo", "-Xptxas=-v"]},
            ),
            ("--arch 61 --arch 75", {"arch": "75"}),
            ("--arch=", {"arch": ""}),
        ],
    )
    def test_spellings(self, argv: str, expected: dict[str, Any]) -> None:
        assert said(*argv.split()) == {"command": "build", **expected}

    def test_a_value_is_taken_as_it_is(self) -> None:
        assert said("--arch", "rtx 4090", "--source", "ü'\"\n")["source"] == "ü'\"\n"

    def test_what_a_value_may_be_is_left_to_the_settings(self) -> None:
        assert said("--jobs", "many", "--blas", "mkl")["blas"] == "mkl"


class TestRefused:
    @pytest.mark.parametrize(
        ("argv", "message", "hint"),
        [
            ("--forse-mmq", "build has no option --forse-mmq", "--force-mmq"),
            ("--archs=61", "build has no option --archs", "--arch"),
            ("--arc 61", "build has no option --arc", "--arch"),
            ("--no-fastmath", "build has no option --no-fastmath", "--no-fast-math"),
            ("-x", "build has no option -x", "llamabuild build --help"),
            ("plan --zzz", "plan has no option --zzz", "llamabuild plan --help"),
            (
                "detect --arch 61",
                "--arch does not apply to detect, but to build, plan",
                "llamabuild build --help",
            ),
            (
                "cache prune --no-force-mmq",
                "--no-force-mmq does not apply to cache, but to build, plan",
                "llamabuild build --help",
            ),
            ("biuld --arch 61", "there is no command 'biuld'", "llamabuild build"),
            ("./a.llamafile", "build takes no argument './a.llamafile'", "--source ./a.llamafile"),
            ("plan x -- y", "plan takes no argument 'x'", "--source x"),
            ("plan biuld", "plan takes no argument 'biuld'", "--source biuld"),
            ("detect x", "detect takes no argument 'x'", "llamabuild detect --help"),
            ("-v detect", "'detect' comes too late", "llamabuild detect [OPTION ...]"),
            ("--nvcc-flag -lineinfo", "argument --nvcc-flag: expected", "--nvcc-flag=VALUE"),
            ("-D -DX", "argument -D/--define: expected", "--define=VALUE"),
            ("--jobs", "argument -j/--jobs: expected", "--jobs=VALUE"),
            ("--force-mmq=1", "argument --force-mmq", "llamabuild build --help"),
            ("cache", "the following arguments are required: action", "llamabuild cache --help"),
            ("cache lst", "argument action: invalid choice: 'lst'", "llamabuild cache --help"),
            ("inspect", "the following arguments are required: file", "llamabuild inspect --help"),
            ("inspect a b c", "inspect takes no argument 'c'", "llamabuild inspect --help"),
        ],
    )
    def test_with_what_to_type_instead(self, argv: str, message: str, hint: str) -> None:
        error = refused(*argv.split())
        assert error.message.startswith(message)
        assert error.hint == hint

    def test_a_source_with_spaces_is_quoted_in_the_hint(self) -> None:
        assert refused("my model.llamafile").hint == "--source 'my model.llamafile'"

    @pytest.mark.parametrize("flag", ["--for", "--dry", "--verb", "--cache"])
    def test_abbreviations(self, flag: str) -> None:
        """They would come to mean something else when options are added."""
        refused(flag)


class TestHelp:
    def printed(self, capsys: pytest.CaptureFixture[str], *argv: str) -> str:
        with pytest.raises(SystemExit) as caught:
            parse(argv)
        assert caught.value.code == 0
        return capsys.readouterr().out

    @pytest.mark.parametrize("columns", ["20", "80", "300"])
    @pytest.mark.parametrize("name", COMMANDS)
    def test_of_a_command_names_its_flags_variables_and_defaults(
        self,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        name: str,
        columns: str,
    ) -> None:
        monkeypatch.setenv("COLUMNS", columns)
        text = " ".join(self.printed(capsys, name, "--help").split())
        for option in OPTIONS:
            named = re.search(rf" {option.flag}[ ,]", text)
            assert bool(named) == (name in option.commands), option.flag
            if name in option.commands:
                assert " ".join(option.help.split()) in text
                assert option.letter in text
                assert all(variable in text for variable in option.variables)
        assert "exit codes:" in text

    def test_of_all_names_the_commands(self, capsys: pytest.CaptureFixture[str]) -> None:
        text = " ".join(self.printed(capsys, "--help").split())
        for name, words in COMMANDS.items():
            assert f" {name} {words}" in text

    def test_says_the_default(self, capsys: pytest.CaptureFixture[str]) -> None:
        text = self.printed(capsys, "build", "-h")
        assert "(default: native)" in text
        assert text.count("(default:") == 3  # arch, fa, cxx_runtime

    def test_says_the_exit_codes(self, capsys: pytest.CaptureFixture[str]) -> None:
        text = self.printed(capsys, "--help").partition("exit codes:")[2]
        codes = {getattr(errors, name).exit_code for name in errors.__all__} - {1}
        assert [int(code) for code in re.findall(r"\d+", text)] == sorted({0, *codes})

    def test_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.printed(capsys, "--version") == f"llamabuild {__version__}\n"


words = (
    st.sampled_from(
        [
            *COMMANDS,
            *(option.flag for option in OPTIONS),
            "-j",
            "-D",
            "-vv",
            "--",
            "=",
            "",
            "61",
            "-1",
        ]
    )
    | st.text()
)


@settings(deadline=None)
@given(st.lists(words))
def test_any_command_line_is_understood_or_refused(argv: Sequence[str]) -> None:
    try:
        parsed = parse(argv)
    except UsageError as error:
        assert error.message  # noqa: PT017
        assert error.hint  # noqa: PT017
    except SystemExit as end:
        assert end.code == 0  # noqa: PT017 -- somebody typed -h
    else:
        assert parsed.command in COMMANDS
