from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamabuild import run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="fake tools are shell scripts")

ENV = {"PATH": os.defpath}


class Tools:
    """Writes fake tools."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def shell(self, body: str) -> Path:
        return self._write("/bin/sh", body)

    def python(self, body: str) -> Path:
        return self._write(sys.executable, body)

    def _write(self, interpreter: str, body: str) -> Path:
        path = self.folder / f"tool{len(list(self.folder.iterdir()))}"
        path.write_text(f"#!{interpreter}\n{textwrap.dedent(body)}")
        path.chmod(0o755)
        return path


@pytest.fixture
def tools(tmp_path: Path) -> Tools:
    return Tools(tmp_path)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "GRACE_SECONDS", (0.1, 0.1))


@pytest.fixture
def pids(tmp_path: Path) -> Iterator[Path]:
    """A file to which a fake tool writes a process id a line; those still there are killed."""
    path = tmp_path / "pids"
    yield path
    for pid in _read(path):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _read(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"


class TestCapture:
    def test_returns_what_the_program_said(self, tools: Tools) -> None:
        tool = tools.shell("echo out; echo err >&2; exit 3")
        done = run.capture([tool], env=ENV, timeout=30)
        assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")
        assert done.argv == (str(tool),)
        assert "out" in done.text
        assert "err" in done.text

    def test_a_crash_is_a_negative_return_code(self, tools: Tools) -> None:
        done = run.capture([tools.shell("kill -SEGV $$")], env=ENV, timeout=30)
        assert done.returncode == -signal.SIGSEGV

    def test_no_shell_reads_the_arguments(self, tools: Tools) -> None:
        awkward = ["a b", "$HOME", "'\"", "*", "", "ä\n"]
        tool = tools.shell("""printf '<%s>' "$@" """)
        done = run.capture([tool, *awkward], env=ENV, timeout=30)
        assert done.stdout == "".join(f"<{word}>" for word in awkward)

    def test_a_path_that_is_not_utf8_arrives_unchanged(self, tools: Tools, tmp_path: Path) -> None:
        odd = os.fsdecode(bytes(tmp_path) + b"/\xff")
        done = run.capture([tools.shell('printf %s "$1" | od -An -tx1'), odd], env=ENV, timeout=30)
        assert done.stdout.split()[-1] == "ff"

    def test_output_that_is_not_utf8_is_shown_with_replacements(self, tools: Tools) -> None:
        done = run.capture([tools.shell(r"printf 'a\377b'")], env=ENV, timeout=30)
        assert done.stdout == "a\N{REPLACEMENT CHARACTER}b"

    def test_much_output_on_both_streams(self, tools: Tools) -> None:
        tool = tools.shell("head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2")
        done = run.capture([tool], env=ENV, timeout=60)
        assert (len(done.stdout), len(done.stderr)) == (3_000_000, 3_000_000)

    def test_stdin_is_empty(self, tools: Tools) -> None:
        assert run.capture([tools.shell("cat; echo end")], env=ENV, timeout=30).stdout == "end\n"

    def test_the_environment_is_exactly_the_one_given(
        self, tools: Tools, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("NVCC_APPEND_FLAGS", "-G")
        tool = tools.python(
            "import os; print(sorted(os.environ.items() - {('LC_CTYPE', 'C.UTF-8')}))"
        )
        done = run.capture([tool], env={"ONLY": "this"}, timeout=30)
        assert done.stdout.strip() == "[('ONLY', 'this')]"

    def test_the_program_is_looked_up_on_the_path_given(self, tools: Tools, tmp_path: Path) -> None:
        name = tools.shell("echo found").name
        done = run.capture([name], env={"PATH": str(tmp_path)}, timeout=30)
        assert done.stdout == "found\n"

    def test_the_working_folder(self, tools: Tools, tmp_path: Path) -> None:
        done = run.capture([tools.shell("pwd -P")], env=ENV, timeout=30, cwd=tmp_path)
        assert done.stdout.strip() == str(tmp_path.resolve())


class TestWithin:
    def test_all_calls_share_the_time(self, tools: Tools) -> None:
        tool = tools.shell("exec sleep 60")
        with run.within(0.5), pytest.raises(run.TimedOut, match="did not finish in 0"):
            run.capture([tool], env=ENV, timeout=60)

    def test_what_comes_too_late_is_not_started(self, tools: Tools, tmp_path: Path) -> None:
        tool = tools.shell(f"touch '{tmp_path}/started'")
        with run.within(60), run.within(0), pytest.raises(run.OutOfTime, match="the time is up"):
            run.capture([tool], env=ENV, timeout=60)
        assert not (tmp_path / "started").exists()

    def test_a_longer_time_inside_does_not_count(self, tools: Tools) -> None:
        with run.within(0), run.within(60), pytest.raises(run.TimedOut):
            run.capture([tools.shell("")], env=ENV, timeout=60)

    def test_one_that_hangs_leaves_time_for_others(self, tools: Tools) -> None:
        with run.within(60, each=0.3), run.within(60):
            with pytest.raises(run.TimedOut, match=r"did not finish in 0\.3 seconds"):
                run.capture([tools.shell("exec sleep 60")], env=ENV, timeout=60)
            with pytest.raises(run.TimedOut):
                run.capture([tools.shell("exec sleep 60")], env=ENV, timeout=60)
        assert run.capture([tools.shell("sleep 0.5")], env=ENV, timeout=60).returncode == 0

    def test_afterwards_nothing_is_left_of_it(self, tools: Tools) -> None:
        with pytest.raises(ZeroDivisionError), run.within(0):
            _ = 1 / 0
        assert run.capture([tools.shell("")], env=ENV, timeout=30).returncode == 0


class TestCannotStart:
    def check(self, argv: list[str | Path], says: str, cwd: Path | None = None) -> None:
        with pytest.raises(run.CannotStart, match=says):
            run.capture(argv, env=ENV, timeout=30, cwd=cwd)
        with pytest.raises(run.CannotStart, match=says):
            run.stream(argv, env=ENV, on_line=print, cwd=cwd)

    def test_a_missing_program(self) -> None:
        self.check(["/no/such/nvcc"], "/no/such/nvcc cannot be started: No such file")

    def test_a_file_that_may_not_be_executed(self, tmp_path: Path) -> None:
        tool = tmp_path / "tool"
        tool.write_text("#!/bin/sh\n")
        self.check([tool], "Permission denied")

    def test_a_file_that_is_no_program(self, tmp_path: Path) -> None:
        tool = tmp_path / "tool"
        tool.write_bytes(b"\x7fELF but no more")
        tool.chmod(0o755)
        self.check([tool], "Exec format error")

    def test_a_folder(self, tmp_path: Path) -> None:
        self.check([tmp_path], "Permission denied")

    def test_a_missing_working_folder_is_not_taken_for_a_missing_program(
        self, tools: Tools, tmp_path: Path
    ) -> None:
        self.check([tools.shell("")], f"in {tmp_path}/gone: No such file", tmp_path / "gone")

    def test_a_nul_in_an_argument(self, tools: Tools) -> None:
        self.check([tools.shell(""), "a\0b"], "null byte")

    def test_a_nul_in_the_program(self) -> None:
        self.check(["a\0b"], "null byte")

    def test_a_nul_in_a_variable(self, tools: Tools) -> None:
        with pytest.raises(run.CannotStart, match="null byte"):
            run.capture([tools.shell("")], env={"A": "\0"}, timeout=30)

    def test_too_long_a_command_line(self, tools: Tools) -> None:
        self.check([tools.shell(""), "x" * 5_000_000], "Argument list too long")


class TestStream:
    def test_hands_over_each_line_of_both_streams(self, tools: Tools) -> None:
        lines: list[str] = []
        tool = tools.shell(r"echo one; echo two >&2; printf 'three\r\n\n'; printf four; exit 5")
        done = run.stream([tool], env=ENV, on_line=lines.append)
        assert lines == ["one", "two", "three", "", "four"]
        assert (done.returncode, done.stdout, done.stderr) == (5, "", "")

    def test_lines_arrive_while_the_program_runs(self, tools: Tools, tmp_path: Path) -> None:
        heard = tmp_path / "heard"
        tool = tools.shell(f"echo first; until [ -e '{heard}' ]; do sleep 0.01; done; echo last")
        lines: list[str] = []

        def on_line(line: str) -> None:
            lines.append(line)
            heard.touch()

        run.stream([tool], env=ENV, on_line=on_line)
        assert lines == ["first", "last"]

    def test_output_that_is_not_utf8(self, tools: Tools) -> None:
        lines: list[str] = []
        run.stream([tools.shell(r"printf 'a\377b\n'")], env=ENV, on_line=lines.append)
        assert lines == ["a\N{REPLACEMENT CHARACTER}b"]

    def test_a_line_of_megabytes(self, tools: Tools) -> None:
        lines: list[str] = []
        run.stream([tools.shell("head -c 4000000 /dev/zero")], env=ENV, on_line=lines.append)
        assert [len(line) for line in lines] == [4_000_000]


#: A compiler driver as bad as can be: it ignores polite signals, and so do its children, of which
#: one has a process group of its own (as Ninja's have). All hold the output open.
STUBBORN = """
    import os, signal, subprocess, sys, time
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    children = [subprocess.Popen(["sleep", "1000"], process_group=group) for group in (None, 0)]
    with open(sys.argv[1], "w") as file:
        print(os.getpid(), *(child.pid for child in children), sep="\\n", file=file)
    print("ready", flush=True)
    time.sleep(1000)
"""


@pytest.mark.usefixtures("impatient")
class TestNothingIsLeft:
    def test_after_a_timeout(self, tools: Tools, pids: Path) -> None:
        tool = tools.python(STUBBORN)
        with pytest.raises(run.TimedOut, match=f"{tool} did not finish in 1 seconds"):
            run.capture([tool, pids], env=ENV, timeout=1)
        assert not [pid for pid in _read(pids) if alive(pid)]

    @pytest.mark.parametrize("problem", [KeyboardInterrupt, ValueError])
    def test_after_an_exception(
        self, tools: Tools, pids: Path, problem: type[BaseException]
    ) -> None:
        def on_line(line: str) -> None:
            raise problem

        with pytest.raises(problem):
            run.stream([tools.python(STUBBORN), pids], env=ENV, on_line=on_line)
        assert len(_read(pids)) == 3
        assert not [pid for pid in _read(pids) if alive(pid)]

    def test_when_the_parent_is_gone_and_a_grandchild_holds_the_output(
        self, tools: Tools, pids: Path
    ) -> None:
        tool = tools.shell('sleep 1000 & echo $! > "$1"')
        with pytest.raises(run.TimedOut):
            run.capture([tool, pids], env=ENV, timeout=0.5)
        assert len(_read(pids)) == 1
        assert not [pid for pid in _read(pids) if alive(pid)]

    def test_a_daemon_that_escapes_is_not_waited_for(self, tools: Tools, pids: Path) -> None:
        tool = tools.shell('setsid sh -c \'echo $$ > "$1"; exec sleep 1000\' sh "$1" &')
        with pytest.raises(run.TimedOut):
            run.capture([tool, pids], env=ENV, timeout=0.5)

    def test_a_polite_program_may_clean_up(
        self, tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(run, "GRACE_SECONDS", (30.0, 30.0))
        temporary = tmp_path / "temporary"
        interrupts = tmp_path / "interrupts"
        tool = tools.shell(f"""
            trap 'echo >> "{interrupts}"' INT
            touch "{temporary}"
            echo ready
            until [ -e "{interrupts}" ]; do sleep 0.01; done
            sleep 0.2
            rm "{temporary}"
        """)

        def interrupt(line: str) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run.stream([tool], env=ENV, on_line=interrupt)
        assert not temporary.exists()
        assert interrupts.read_text() == "\n", "asked more than once"

    def test_a_second_interrupt_kills_at_once(
        self, tools: Tools, pids: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(run, "GRACE_SECONDS", (1000.0, 1000.0))
        sent: list[int] = []
        really_kill = os.kill

        def kill(pid: int, number: int) -> None:
            sent.append(number)
            really_kill(pid, number)
            if number == signal.SIGINT:
                raise KeyboardInterrupt

        monkeypatch.setattr(os, "kill", kill)

        def on_line(line: str) -> None:
            raise ValueError

        with pytest.raises(KeyboardInterrupt):
            run.stream([tools.python(STUBBORN), pids], env=ENV, on_line=on_line)
        assert sent[0] == signal.SIGINT
        assert set(sent[1:]) == {signal.SIGKILL}
        assert not [pid for pid in _read(pids) if alive(pid)]

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_after_a_signal_to_us(self, tools: Tools, pids: Path, number: signal.Signals) -> None:
        us = tools.python(f"""
            import signal, sys
            from llamabuild import run

            def stop(number, frame):
                raise KeyboardInterrupt

            run.GRACE_SECONDS = (0.1, 0.1)
            signal.signal(signal.SIGTERM, stop)
            try:
                run.stream(sys.argv[1:], env={ENV!r}, on_line=lambda line: print(line, flush=True))
            except KeyboardInterrupt:
                sys.exit(130)
        """)
        with subprocess.Popen(
            [us, tools.python(STUBBORN), pids], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            process.send_signal(number)
            assert process.wait(60) == 130
        assert len(_read(pids)) == 3
        assert not [pid for pid in _read(pids) if alive(pid)]


paths = st.lists(st.sampled_from(["/usr/bin", "/opt/cuda/bin", "/usr/lib/nvidia", "."]), max_size=5)


class TestEnvironment:
    def test_nothing_of_this_process_is_taken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NVCC_APPEND_FLAGS", "-G")
        assert set(run.environment({"A": "1"})) == {"A", "PATH"}

    def test_the_base_is_left_as_it_is(self) -> None:
        base = {"PATH": "/usr/bin", "A": "1"}
        run.environment(base, unset=["A"], update={"B": "2"}, path_first=[Path("/x")])
        assert base == {"PATH": "/usr/bin", "A": "1"}

    def test_unset_comes_before_update(self) -> None:
        child = run.environment(
            {"A": "1", "B": "1"}, unset=iter(["A", "B", "C"]), update={"B": "2"}
        )
        assert child.keys() == {"B", "PATH"}
        assert child["B"] == "2"

    def test_the_own_toolkit_comes_first_and_no_other_is_left(self) -> None:
        child = run.environment(
            {"PATH": "/opt/cuda-12/bin:/usr/bin:/opt/cuda-11/bin"},
            path_first=[Path("/opt/cuda-11/bin")],
            path_without=lambda folder: "cuda" in str(folder),
        )
        assert child["PATH"] == "/opt/cuda-11/bin:/usr/bin"

    def test_an_empty_part_of_path_does_not_mean_the_working_folder(self) -> None:
        assert run.environment({"PATH": ":/usr/bin::"})["PATH"] == "/usr/bin"

    @pytest.mark.parametrize("base", [{}, {"PATH": os.defpath}])
    def test_without_a_path_there_is_the_default_one(self, base: dict[str, str]) -> None:
        assert run.environment(base)["PATH"] == "/bin:/usr/bin"

    @settings(deadline=None)
    @given(paths, paths)
    def test_order_is_kept_and_nothing_stands_twice(self, first: list[str], old: list[str]) -> None:
        child = run.environment({"PATH": ":".join(old)}, path_first=[Path(part) for part in first])
        assert child["PATH"].split(":") == (list(dict.fromkeys([*first, *old])) or [""])


# --- taking another program's place ---------------------------------------------------------------

BECOME = (
    "import os, sys; from llamabuild import run; run.become(sys.argv[1:], env=dict(os.environ))"
)


def became(*argv: str | Path, env: dict[str, str] | None = None) -> run.Completed:
    words = [sys.executable, "-c", BECOME, *map(str, argv)]
    return run.capture(words, env=ENV | (env or {}), timeout=60)


def test_a_program_that_takes_over_has_arguments_streams_and_exit_code(tools: Tools) -> None:
    tool = tools.shell('echo "$2"; echo words >&2; exit 37')
    result = became(tool, "--", "a  b")
    assert (result.returncode, result.stdout, result.stderr) == (37, "a  b\n", "words\n")


def test_what_was_printed_before_comes_before(tools: Tools) -> None:
    tool = tools.shell("echo after")
    code = f"print('before'); {BECOME}"
    result = run.capture([sys.executable, "-c", code, tool], env=ENV, timeout=60)
    assert result.stdout == "before\nafter\n"


def test_a_signal_that_ends_it_is_the_callers_to_see(tools: Tools) -> None:
    assert became(tools.shell("kill -TERM $$")).returncode == -signal.SIGTERM


def test_it_is_the_same_process(tools: Tools) -> None:
    code = f"import os; print(os.getpid(), flush=True); {BECOME}"
    result = run.capture([sys.executable, "-c", code, tools.shell("echo $$")], env=ENV, timeout=60)
    before, after = result.stdout.split()
    assert before == after


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux' process table")
def test_no_signal_stays_ignored(tools: Tools) -> None:
    result = became(tools.shell("while read -r a b; do echo $a $b; done < /proc/$$/status"))
    ignored = dict(line.split(" ", 1) for line in result.stdout.splitlines() if " " in line)
    assert not int(ignored["SigIgn:"], 16) & (1 << (signal.SIGPIPE - 1))


def test_a_program_on_the_given_path_is_found(tools: Tools) -> None:
    tool = tools.shell("echo found")
    assert became(tool.name, env={"PATH": str(tool.parent)}).stdout == "found\n"


def test_an_executable_that_the_kernel_does_not_know_goes_to_the_shell(tmp_path: Path) -> None:
    path = tmp_path / "ape.llamafile"
    path.write_text("MZqFpD='\n'\necho \"ran $0 with $1\"\nexit 3\n")
    path.chmod(0o755)
    result = became(path, "x y")
    assert (result.returncode, result.stdout) == (3, f"ran {path} with x y\n")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no-such-program", "no-such-program is not on PATH"),
        ("{folder}/absent", "absent cannot be started: No such file"),
        ("{folder}/plain", "plain cannot be started: Permission denied"),
        ("./a\0b", "'./a\\x00b' cannot be started: embedded null byte"),
    ],
)
def test_what_cannot_take_over_is_said(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "plain").write_text("echo no\n")
    argv = [name.format(folder=tmp_path)]
    code = f"from llamabuild import run; run.become({argv!r}, env={ENV!r})"
    result = run.capture([sys.executable, "-c", code], env=ENV, timeout=60)
    assert f"CannotStart: {words}" in result.stderr.replace(f"{tmp_path}/", "")
