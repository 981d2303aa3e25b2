"""A program that runs a module: whatever becomes of it is a report."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamabuild import run
from llamabuild.verify.trial import LINE_LENGTH, Trial, _last_words, _read, attempt

Program = Callable[..., Path]


def tried(program: Path, time_limit: float = 20) -> Trial:
    return attempt([program], ["rest"], environ=os.environ, time_limit=time_limit)


def test_a_report_is_read_line_by_line(program: Program) -> None:
    trial = tried(program({"doing": "a"}, {"row": 1}, {"row": 2}, {"end": True}))
    assert trial.ended
    assert not trial.damaged
    assert trial.all("row") == [1, 2]
    assert trial.said("row", int, 0) == 2
    assert trial.said("row", str, "no text") == "no text"
    assert trial.where == " at a"


def test_the_rest_of_the_command_line_is_handed_on(program: Program) -> None:
    trial = tried(program({"end": True}, then="print(sys.argv[-1])"))
    assert trial.words == "rest"


@pytest.mark.parametrize(
    ("then", "ending"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "crashed (SIGSEGV) at q4_0"),
        ("os.kill(os.getpid(), 40)", "crashed (signal 40) at q4_0"),
        ("sys.exit(9)", "ended the process with code 9 at q4_0"),
    ],
)
def test_how_it_ended_is_said(program: Program, then: str, ending: str) -> None:
    trial = tried(program({"doing": "q4_0"}, then=then))
    assert not trial.ended
    assert trial.ending == ending


def test_a_crash_on_windows_has_a_status(trial: Callable[..., Trial]) -> None:
    assert trial(returncode=0xC0000005).ending == "crashed (status 0xc0000005)"


def test_a_hang_is_ended_and_what_was_reported_stays(program: Program) -> None:
    hang = "signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: time.sleep(1)"
    trial = tried(program({"doing": "q4_0"}, {"row": 1}, then=hang), time_limit=0.5)
    assert trial.returncode is None
    assert trial.ending == "did not answer within 0.5 seconds at q4_0"
    assert trial.all("row") == [1]


def test_a_line_that_was_cut_off_is_left_out(program: Program) -> None:
    trial = tried(program({"row": 1}, then="file.write('{\"row\": 2'); file.close()"))
    assert trial.all("row") == [1]
    assert not trial.damaged


def test_a_program_that_reports_nothing(program: Program) -> None:
    trial = tried(program(then="file.close(); os.unlink(report)"))
    assert trial.lines == ()
    assert not trial.ended


@pytest.mark.parametrize("line", ["nonsense", "[1]", "3", '{"a": ', "[" * 100_000])
def test_a_report_that_is_none_is_damaged(tmp_path: Path, line: str) -> None:
    (tmp_path / "report").write_text(f'{{"a": 1}}\n{line}\n{{"b": 2}}\n')
    lines, damaged = _read(tmp_path / "report")
    assert damaged
    assert lines == ({"a": 1}, {"b": 2})


@given(st.binary())
def test_no_report_makes_the_reader_fail(tmp_path_factory: Any, contents: bytes) -> None:
    report = tmp_path_factory.getbasetemp() / "fuzzed-report"
    report.write_bytes(contents)
    lines, _ = _read(report)
    assert all(isinstance(line, dict) for line in lines)


def test_a_program_that_is_none_cannot_start(tmp_path: Path) -> None:
    with pytest.raises(run.CannotStart):
        tried(tmp_path / "absent")


def test_the_same_words_in_every_thread_are_kept_once() -> None:
    trap = "no device code compatible with CUDA arch 600"
    text = "\n".join(
        ["ggml_cuda_init: found 1 device", *[trap] * 5000, "CUDA error: launch failed"]
    )
    assert _last_words(text).splitlines() == [
        "ggml_cuda_init: found 1 device",
        trap,
        "CUDA error: launch failed",
    ]


def test_an_error_is_kept_before_much_else() -> None:
    text = "\n".join(["CUDA error: out of memory", *(f"frame {i}" for i in range(99))])
    words = _last_words(text).splitlines()
    assert words[0] == "CUDA error: out of memory"
    assert words[-1] == "frame 98"
    assert len(words) < 10


def test_words_cannot_move_the_cursor() -> None:
    assert _last_words("\033[2J\a  hello \0\n\n") == "[2J  hello"


@given(st.text())
def test_words_are_short(text: str) -> None:
    lines = _last_words(text * 50).splitlines()
    assert len(lines) <= 12
    assert all(len(line) <= LINE_LENGTH for line in lines)
