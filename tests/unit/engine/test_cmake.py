"""Values reach CMake untouched, and its words reach the user."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamabuild.engine.cmake import Project, quote
from llamabuild.errors import CompilationError, LlamabuildError, StoreError
from llamabuild.events import Event, Note, StepAdvanced, StepFinished

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="fake tools are shell scripts")


@given(st.text(alphabet="a]=[;\"$\\ '"))
def test_a_bracket_argument_ends_where_it_should(text: str) -> None:
    quoted = quote(text)
    fence = quoted[: quoted.index("[", 1) + 1].strip("[")
    closing = f"]{fence}]"
    assert quoted == f"[{fence}[{text}{closing}"
    assert (text + closing).index(closing) == len(text)


def project(tmp_path: Path, script: str, heard: list[Event], log: io.StringIO) -> Project:
    """A project whose CMake and Ninja are one shell script."""
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\n" + script)
    tool.chmod(0o755)
    return Project(
        tmp_path,
        tmp_path / "build",
        cmake=tool,
        ninja=tool,
        environment={"PATH": "/usr/bin:/bin", "CXXFLAGS": "-O0", "KEPT": "yes"},
        log=log,
        notify=heard.append,
    )


def test_the_initial_cache_holds_every_value(tmp_path: Path) -> None:
    made = project(tmp_path, "exit 0\n", [], io.StringIO())
    made.configure({"ONE": 'a "b" $c', "LIST": ["x;y", "z"]})
    text = (tmp_path / "build-plan.cmake").read_text()
    assert 'set(ONE [=[a "b" $c]=] CACHE STRING "" FORCE)' in text
    assert "set(LIST [=[x\\;y;z]=] CACHE" in text


def test_progress_has_counts_labels_and_shares(tmp_path: Path) -> None:
    heard: list[Event] = []
    lines = "echo '[1/2] cicc compute_90'; echo 'a warning'; echo '[2/2] link'\n"
    project(tmp_path, lines, heard, io.StringIO()).build(
        "module", jobs=2, weights={"cicc compute_90": 3.0}
    )
    steps = [event for event in heard if isinstance(event, StepAdvanced)]
    assert [(step.done, step.total, step.label) for step in steps] == [
        (1, 2, "cicc compute_90"),
        (2, 2, "link"),
    ]
    assert [step.share for step in steps] == [0.75, 1.0]
    assert Note("detail", "a warning") in heard
    assert isinstance(heard[-1], StepFinished)


def test_no_variable_changes_what_is_compiled_behind_the_plans_back(tmp_path: Path) -> None:
    log = io.StringIO()
    project(tmp_path, 'echo "flags=$CXXFLAGS kept=$KEPT"\n', [], log).build("module", jobs=1)
    assert "flags= kept=yes" in log.getvalue()


def test_a_failure_has_error_command_and_everything_in_the_log(tmp_path: Path) -> None:
    log = io.StringIO()
    script = "echo 'FAILED: x.o'; echo 'nvcc -c x.cu'; echo 'x.cu(1): error: no'; exit 1\n"
    with pytest.raises(CompilationError) as caught:
        project(tmp_path, script, [], log).build("module", jobs=1)
    assert "x.cu(1): error: no" in caught.value.message
    assert "command: nvcc -c x.cu" in caught.value.message
    assert "FAILED: x.o" in log.getvalue()


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        ("nvcc error   : 'cicc' died due to signal 9 (Kill signal)", CompilationError, "--jobs 1"),
        ("fatal error: error writing to /x: No space left on device", StoreError, "--cache-dir"),
    ],
)
def test_want_of_memory_and_of_disk_have_a_cure(
    tmp_path: Path, words: str, error: type[LlamabuildError], hint: str
) -> None:
    script = f"echo 'FAILED: x.o'; echo 'nvcc -c x.cu'; echo \"{words}\"; exit 1\n"
    with pytest.raises(error) as caught:
        project(tmp_path, script, [], io.StringIO()).build("module", jobs=1)
    assert hint in caught.value.hint
    assert words in caught.value.message
