"""``llamabuild doctor``: the same report as text and as JSON, and when it fails."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from llamabuild.cli import main
from llamabuild.cli.commands import doctoring
from llamabuild.doctor import Line, Report, Section, Status, Surroundings

Main = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Main:
    def call(*argv: str) -> tuple[int, str, str]:
        code = main(["doctor", *argv])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def report(worst: Status) -> Report:
    lines = (
        Line("ok", "GPU 0: GTX 1080"),
        Line("note", "a note\nof two lines", "export HOME=/tmp"),
        Line(worst, "the last word", "" if worst == "ok" else "apt install it"),
    )
    return Report((Section("gpus", lines), Section("settings", ())))


@pytest.fixture(params=["ok", "note", "trouble"])
def worst(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Status:
    monkeypatch.setattr(doctoring, "examine", lambda _here: report(request.param))
    return request.param  # type: ignore[no-any-return]


def test_the_page(run: Main, worst: Status) -> None:
    code, out, err = run()
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "gpus",
        "  ok       GPU 0: GTX 1080",
        "  note     a note",
        "           of two lines",
        "           try: export HOME=/tmp",
        f"  {worst:8} the last word",
        *(["           try: apt install it"] if worst != "ok" else []),
        f"trouble: {int(worst == 'trouble')}, notes: {1 + int(worst == 'note')}",
    ]


def test_json(run: Main, worst: Status) -> None:
    code, out, err = run("--json")
    document = json.loads(out)
    assert (code, err) == (0, "")
    assert document["schema"] == 1
    assert document["status"] == ("note" if worst == "ok" else worst)
    assert [section["name"] for section in document["sections"]] == ["gpus", "settings"]
    assert document["sections"][0]["lines"][0] == {
        "status": "ok",
        "text": "GPU 0: GTX 1080",
        "cure": "",
    }


@pytest.mark.parametrize("more", [[], ["--json"], ["-q"]])
def test_strict_fails_on_trouble_only(run: Main, worst: Status, more: list[str]) -> None:
    code, out, _ = run("--strict", *more)
    assert code == (7 if worst == "trouble" else 0)
    assert out


def test_quiet_is_silent_about_what_is_well(run: Main, worst: Status) -> None:
    _, out, _ = run("-q")
    assert "GPU 0" not in out
    assert "a note" in out


def test_the_cache_that_is_named_is_looked_at(
    run: Main, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[Surroundings] = []

    def look(here: Surroundings) -> Report:
        seen.append(here)
        return Report(())

    monkeypatch.setattr(doctoring, "examine", look)
    run("--cache-dir", str(tmp_path))
    assert [here.cache_dir for here in seen] == [str(tmp_path)]


def test_a_working_folder_that_is_gone(
    run: Main, worst: Status, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    assert run()[0] == 0
