from __future__ import annotations

import io
import re
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamabuild.cli import render
from llamabuild.cli.render import Renderer, duration, size
from llamabuild.events import Event, Note, StepAdvanced, StepFinished, StepStarted

ERASE_LINE = "\033[2K"
CURSOR_ON = "\033[?25h"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(render, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


def shown(
    events: Iterable[Event],
    environ: dict[str, str] | None = None,
    *,
    stream: io.StringIO | None = None,
    verbose: int = 0,
    quiet: bool = False,
) -> str:
    stream = stream or io.StringIO()
    renderer = Renderer(environ or {}, verbose=verbose, quiet=quiet, stream=stream)
    for event in events:
        renderer(event)
    renderer.close()
    return stream.getvalue()


def plain(text: str) -> str:
    return re.sub(r"\033\[[?\d;]*[A-Za-z]", "", text)


LEVELS: tuple[Literal["detail", "info", "warning"], ...] = ("detail", "info", "warning")
NOTES: list[Event] = [Note(level, f"a {level}") for level in LEVELS]
BUILD: list[Event] = [
    StepStarted("compile"),
    StepAdvanced("compile", 1, 2, 0.25, "cicc sm_61"),
    StepAdvanced("compile", 2, 2, 1.0, "link"),
    StepFinished("compile", 200.4),
]


class TestNotes:
    @pytest.mark.parametrize(
        ("verbose", "quiet", "expected"),
        [
            (0, False, ["a info", "warning: a warning"]),
            (1, False, ["a detail", "a info", "warning: a warning"]),
            (0, True, ["warning: a warning"]),
        ],
    )
    def test_which_are_shown(self, verbose: int, quiet: bool, expected: list[str]) -> None:
        assert shown(NOTES, verbose=verbose, quiet=quiet).splitlines() == expected

    def test_what_was_shown_is_known_afterwards_without_colour(self) -> None:
        renderer = Renderer({"FORCE_COLOR": "1"}, stream=io.StringIO())
        for event in [*NOTES, *BUILD]:
            renderer(event)
        assert renderer.shown == ["a info\n", "warning: a warning\n"]

    def test_they_go_to_stderr(self, capsys: pytest.CaptureFixture[str]) -> None:
        Renderer({})(Note("info", "found CUDA"))
        assert capsys.readouterr() == ("", "found CUDA\n")


class TestColour:
    @pytest.mark.parametrize(
        ("terminal", "environ", "expected"),
        [
            (True, {}, True),
            (False, {}, False),
            (True, {"NO_COLOR": "1"}, False),
            (True, {"NO_COLOR": "0"}, False),
            (True, {"NO_COLOR": ""}, True),
            (False, {"FORCE_COLOR": "1"}, True),
            (False, {"FORCE_COLOR": ""}, False),
            (True, {"NO_COLOR": "1", "FORCE_COLOR": "1"}, False),
            (True, {"TERM": "dumb"}, False),
            (True, {"TERM": "dumb", "FORCE_COLOR": "1"}, True),
            (True, {"CI": "1"}, True),
        ],
    )
    def test_is_used(self, terminal: bool, environ: dict[str, str], expected: bool) -> None:
        stream = Terminal() if terminal else io.StringIO()
        text = shown([Note("warning", "look out")], environ, stream=stream)
        assert ("\033[33m" in text) == expected
        assert plain(text) == "warning: look out\n"


class TestPlainLines:
    def test_one_for_each_event(self, clock: Clock) -> None:
        assert shown(BUILD).splitlines() == [
            "compile ...",
            "  [1/2] cicc sm_61 (0 s)",
            "  [2/2] link (0 s)",
            "compile: done in 3 min 20 s",
        ]

    @pytest.mark.parametrize(
        ("share", "done", "expected"),
        [
            (0.25, 1, "(1 min 0 s, about 3 min 0 s left)"),
            (0.04, 1, "(1 min 0 s)"),  # too early to tell
            (0.0, 0, "(1 min 0 s)"),
            (1.0, 4, "(1 min 0 s)"),
            (1.0, 3, "(1 min 0 s)"),  # weights are guesses
        ],
    )
    def test_time_passed_and_left(
        self, clock: Clock, share: float, done: int, expected: str
    ) -> None:
        stream = io.StringIO()
        renderer = Renderer({}, stream=stream)
        renderer(StepStarted("compile"))
        clock.now += 60
        renderer(StepAdvanced("compile", done, 4, share, "x"))
        assert stream.getvalue().splitlines()[-1].endswith(expected)

    @pytest.mark.parametrize("environ", [{"TERM": "dumb"}, {"CI": "true"}])
    def test_on_a_terminal_that_is_none(self, clock: Clock, environ: dict[str, str]) -> None:
        assert shown(BUILD, environ, stream=Terminal()) == shown(BUILD)

    def test_quiet_shows_no_progress(self) -> None:
        assert shown(BUILD, quiet=True) == ""
        assert shown(BUILD, {"GITHUB_ACTIONS": "true"}, quiet=True) == ""
        assert shown(BUILD, stream=Terminal(), quiet=True) == ""

    def test_nothing_is_kept_back(self) -> None:
        """A log that is followed shows each line at once."""
        flushed: list[str] = []

        class Log(io.StringIO):
            def flush(self) -> None:
                flushed.append(self.getvalue())

        renderer = Renderer({}, stream=Log())
        renderer(StepStarted("compile"))
        assert flushed == ["compile ...\n"]


class TestFolds:
    def test_each_step_is_a_group(self, clock: Clock) -> None:
        assert shown([*BUILD, NOTES[1]], {"GITHUB_ACTIONS": "true"}).splitlines() == [
            "::group::compile",
            "  [1/2] cicc sm_61 (0 s)",
            "  [2/2] link (0 s)",
            "::endgroup::",
            "compile: done in 3 min 20 s",
            "a info",
        ]

    def test_a_step_that_fails_leaves_no_group_open(self) -> None:
        text = shown(BUILD[:2], {"GITHUB_ACTIONS": "true"})
        assert text.count("::group::") == text.count("::endgroup::") == 1

    def test_a_step_that_follows_a_failed_one_is_not_inside_it(self) -> None:
        events = [StepStarted("configure"), StepStarted("compile")]
        assert shown(events, {"GITHUB_ACTIONS": "true"}).splitlines() == [
            "::group::configure",
            "::endgroup::",
            "::group::compile",
            "::endgroup::",
        ]

    def test_closing_again_changes_nothing(self) -> None:
        stream = io.StringIO()
        renderer = Renderer({"GITHUB_ACTIONS": "true"}, stream=stream)
        renderer(BUILD[0])
        for _ in range(3):
            renderer.close()
        assert stream.getvalue().count("::endgroup::") == 1

    def test_on_a_terminal_too(self) -> None:
        assert "::group::compile" in shown(BUILD, {"GITHUB_ACTIONS": "true"}, stream=Terminal())


class TestLiveBar:
    @pytest.fixture(autouse=True)
    def wide(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", "200")

    def test_shows_step_count_and_label(self) -> None:
        text = plain(shown(BUILD[:2], stream=Terminal()))
        assert "compile" in text
        assert "1/2" in text
        assert "cicc sm_61" in text

    def test_leaves_one_line_behind(self) -> None:
        """The last thing drawn is erased, and the cursor is seen again."""
        text = shown(BUILD, stream=Terminal())
        bar, _, rest = text.rpartition(ERASE_LINE)
        assert "2/2" in bar
        assert "2/2" not in rest
        assert plain(rest) == "compile: done in 3 min 20 s\n"
        assert CURSOR_ON in text

    def test_goes_away_when_a_step_fails(self) -> None:
        text = shown(BUILD[:2], stream=Terminal())
        assert plain(text.rpartition(ERASE_LINE)[2]).strip() == ""
        assert CURSOR_ON in text

    @pytest.mark.parametrize("label", ["[/bold] x [red]", "a[0].cu", "[link", "\N{SNOWMAN}"])
    def test_a_label_is_not_markup(self, label: str) -> None:
        events: list[Event] = [StepStarted("compile"), StepAdvanced("compile", 1, 2, 0.5, label)]
        assert label in plain(shown(events, stream=Terminal()))

    def test_a_label_that_is_too_long_takes_no_second_line(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "60")
        events: list[Event] = [
            StepStarted("compile"),
            StepAdvanced("compile", 1, 2, 0.5, "x" * 200),
        ]
        lines = plain(shown(events, stream=Terminal())).splitlines()
        assert max(map(len, lines)) <= 60
        assert not any(line.startswith("x") for line in lines)

    @pytest.mark.parametrize("text", ["plain [bold]", "x" * 500, "it's 50% \\[ done: 1/2"])
    def test_a_note_stands_above_it_unchanged(self, text: str) -> None:
        drawn = plain(shown([BUILD[0], Note("info", text), BUILD[1]], stream=Terminal()))
        assert text in drawn.splitlines()
        assert "1/2 " in drawn.rpartition(text)[2]

    @pytest.mark.parametrize(("environ", "colored"), [({}, True), ({"NO_COLOR": "1"}, False)])
    def test_colour_of_a_warning(self, environ: dict[str, str], colored: bool) -> None:
        drawn = shown([BUILD[0], Note("warning", "look out")], environ, stream=Terminal())
        assert "warning: look out" in plain(drawn).splitlines()
        assert ("\033[33mwarning:" in drawn) == colored

    @pytest.mark.parametrize(("environ", "colored"), [({}, True), ({"NO_COLOR": "1"}, False)])
    def test_colour_of_the_bar(self, environ: dict[str, str], colored: bool) -> None:
        codes = re.findall(r"\033\[([\d;]*)m", shown(BUILD, environ, stream=Terminal()))
        assert any(re.search(r"\b[34][0-8]\b", code) for code in codes) == colored


seconds = st.floats(0, 1e7, allow_nan=False)


class TestDuration:
    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            (0, "0 s"),
            (0.4, "0 s"),
            (8, "8 s"),
            (59.4, "59 s"),
            (59.6, "1 min 0 s"),
            (200, "3 min 20 s"),
            (3599.6, "1 h 0 min"),
            (3900, "1 h 5 min"),
            (90_000, "25 h 0 min"),
        ],
    )
    def test_examples(self, given: float, expected: str) -> None:
        assert duration(given) == expected

    @settings(deadline=None)
    @given(seconds)
    def test_says_the_time_to_the_second_or_the_minute(self, time: float) -> None:
        units = {"s": 1, "min": 60, "h": 3600}
        parts = re.findall(r"(\d+) (s|min|h)", duration(time))
        assert abs(sum(int(number) * units[unit] for number, unit in parts) - time) <= (
            0.5 if time < 3599 else 60
        )
        assert all(int(number) < 60 for number, unit in parts if unit != "h")


class TestSize:
    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (5_800_000, "5.8 MB"),
            (999_949, "999.9 kB"),
            (999_950, "1.0 MB"),
            (999_999_999, "1.0 GB"),
            (2_500_000_000_000, "2.5 TB"),
        ],
    )
    def test_examples(self, given: int, expected: str) -> None:
        assert size(given) == expected

    @settings(deadline=None)
    @given(st.integers(0, 10**15 - 10**12))
    def test_is_right_to_the_digits_it_shows(self, octets: int) -> None:
        units = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
        number, unit = size(octets).split()
        assert abs(float(number) * units[unit] - octets) <= units[unit] * 0.0501
        assert float(number) < 1000
        assert float(number) >= 1 or unit == "B"
