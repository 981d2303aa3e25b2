"""stdout and stderr that are closed, full, or of another encoding."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llamabuild.__main__ import main

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no such streams")


def shell(line: str, folder: Path, **environ: str) -> subprocess.CompletedProcess[bytes]:
    """Run a shell's line with ``llamabuild`` in it."""
    program = f"{sys.executable} -m llamabuild"
    return subprocess.run(
        ["/bin/bash", "-c", line.replace("llamabuild", program, 1)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environ},
        capture_output=True,
        check=False,
    )


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_a_closed_stream_is_no_error(tmp_path: Path, closed: str) -> None:
    done = shell(f"llamabuild cache path --cache-dir c {closed}", tmp_path)
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr
    assert (done.stdout == b"") == (">&-" in closed.split())


def test_what_is_opened_later_does_not_become_stdout(tmp_path: Path) -> None:
    code = (
        "import os, sys; from llamabuild.__main__ import main; main(['cache', 'path', '--cache-dir'"
        ", 'c']); sys.exit(os.open('kept', os.O_CREAT | os.O_WRONLY))"
    )
    done = subprocess.run(
        ["/bin/bash", "-c", f'{sys.executable} -c "$0" >&- 2>&-', code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert done.returncode > 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device")
@pytest.mark.parametrize("more", ["", "--json"])
def test_a_full_disk_behind_stdout(tmp_path: Path, more: str) -> None:
    done = shell(f"llamabuild cache path -q --cache-dir c {more} > /dev/full", tmp_path)
    assert done.returncode == 8
    assert done.stderr == b"error: stdout cannot be written: No space left on device\n"


@pytest.mark.parametrize("command", ["cache path --cache-dir c", "inspect nothing --json"])
def test_a_reader_that_went_away(tmp_path: Path, command: str) -> None:
    done = shell(f"(sleep 0.3; llamabuild {command}) | true; echo ${{PIPESTATUS[0]}}", tmp_path)
    assert b"Traceback" not in done.stderr
    assert b"ignored" not in done.stderr
    assert done.stdout.strip() in {b"141", b"2"}


@pytest.mark.parametrize("encoding", ["utf-8:strict", "ascii:strict", "latin-1"])
def test_a_path_is_printed_as_it_is(tmp_path: Path, encoding: str) -> None:
    name = b"\xff\xfe"
    (tmp_path / os.fsdecode(name)).mkdir()
    line = f"llamabuild cache path --cache-dir {os.fsdecode(name)}"
    done = shell(line, tmp_path, PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert done.stdout == os.fsencode(tmp_path) + b"/" + name + b"/v1\n"


def test_what_the_encoding_lacks_is_escaped(tmp_path: Path) -> None:
    done = shell("llamabuild inspect …", tmp_path, PYTHONIOENCODING="ascii:strict")
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: \\u2026 does not exist\n")


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_json_can_be_read_whatever_a_path_is(tmp_path: Path, encoding: str) -> None:
    name = os.fsdecode(b"\xff\xc3\xbc")
    line = f"llamabuild cache path --json --cache-dir {name}"
    done = shell(line, tmp_path, PYTHONIOENCODING=encoding)
    assert json.loads(done.stdout.decode("ascii"))["path"] == str(tmp_path / name / "v1")


def test_an_interruption_while_it_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("llamabuild.replay.recall", interrupted)
    assert main(["detect"]) == 130
    assert capsys.readouterr().err == "error: interrupted; nothing was left behind\n"
