"""``llamafile:VERSION``: a release's tag, checked out and set up as its own ``make setup`` does it.

Only git is run, never a script of the checkout: the patches are data, and so is their order.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from llamabuild import run
from llamabuild.errors import SourceError
from llamabuild.events import Listener, StepFinished, StepStarted
from llamabuild.source import archive

__all__ = ["check_out", "parse"]

_TAG = re.compile(r"v?\d[A-Za-z0-9._+-]*")
_COMMIT = re.compile(r"[0-9a-f]{40,64}")
#: Seconds that a whole fetch may take.
_PATIENCE = 3600.0
#: A connection that gives fewer bytes a second for so many seconds is dead.
_SLOW = {"GIT_HTTP_LOW_SPEED_LIMIT": "1000", "GIT_HTTP_LOW_SPEED_TIME": "60"}
#: Words that can be read, and no question that nobody would hear.
_PLAIN = {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0"}
#: By these, a repository that git was started in (a hook's, say) would be taken for ours.
_FOREIGN = (
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_NAMESPACE",
    "GIT_PREFIX",
)
#: Nothing of the tree's own or the user's settings changes what is checked out.
_ATTRIBUTES = "* -text -eol -filter -ident -working-tree-encoding -export-ignore -export-subst\n"
#: How lines of a patch begin that say something in any dialect: names, hunks, what is in them.
_READ_BY_PATCH = (b"", b" ", b"+", b"-", b"@", b"\\")
_OTHERWISE = (
    "check the connection; or name copies of the repositories with --source-mirror; or clone "
    "llamafile elsewhere, run `make setup` there, and give the folder as --source"
)


def parse(spec: str) -> str:
    """Read what stands behind ``llamafile:``: a tag.

    :raises SourceError: it is none.
    """
    tag = spec.strip()
    if _TAG.fullmatch(tag):
        return tag
    raise SourceError(
        f"{tag or 'nothing'!r} is no version of llamafile", hint="write it as llamafile:0.10.4"
    )


def check_out(
    tag: str,
    folder: Path,
    *,
    mirror: str | None,
    cwd: Path,
    environ: Mapping[str, str],
    notify: Listener,
) -> Path:
    """Check a release out below an empty folder, set it up, and return its top folder.

    :param mirror: where copies of ``llamafile`` and ``llama.cpp`` are, a folder or an address;
        by default they come from where their projects keep them. A folder is seen from ``cwd``.
    :raises SourceError: there is no git, no such release, a repository cannot be reached or lacks
        the commit, or a patch does not apply.
    :raises OSError: ``folder`` cannot be written.
    """
    git = _Git(environ)
    facts = _facts()
    address = _address(str(facts["repository"]), mirror, cwd)
    top = folder / "llamafile"
    release = _Repository(git, folder / "llamafile.git", address)
    commit = _commit(git, tag, address)
    release.export(commit, top, f"fetching llamafile {tag}", notify)
    name = str(facts["submodule"])
    pinned = release.pinned(commit, name)
    if pinned:  # since 0.10; older releases carry their own llama.cpp
        origin = _address(_stated(git, top, name, address), mirror, cwd)
        source = _Repository(git, folder / f"{name}.git", origin)
        source.export(pinned, top / name, f"fetching {name} {pinned[:9]}", notify)
        added = top / str(facts["files"])
        if added.is_dir():
            shutil.copytree(added, top / name, dirs_exist_ok=True)
        for patch in sorted((top / str(facts["patches"])).glob("*.patch")):
            source.apply(patch, top, f"{name} {pinned[:9]}")
    return top


class _Failed(Exception):
    """What git said when it gave up."""


class _Git:
    """The user's git, with the user's settings (proxies, passwords) and in no other repository."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        found = shutil.which("git", path=environ.get("PATH"))
        if found is None:
            raise SourceError(
                "git is needed to get a release of llamafile, and is not on PATH",
                hint="install git (apt install git), or give a checkout of llamafile as --source",
            )
        self._program = found
        self._env = run.environment({**_SLOW, **environ}, unset=_FOREIGN, update=_PLAIN)

    def __call__(self, *arguments: str | Path, cwd: Path | None = None) -> str:
        """Run a git command and return what it prints.

        :raises _Failed: with git's own words.
        """
        try:
            done = run.capture(
                [self._program, *arguments], env=self._env, timeout=_PATIENCE, cwd=cwd
            )
        except (run.CannotStart, run.TimedOut) as error:
            raise _Failed(str(error)) from error
        if done.returncode:
            raise _Failed(_reason(done.stderr) or f"git ended with {done.returncode}")
        return done.stdout


class _Repository:
    """A repository of one commit, fetched from ``address`` into a folder of ours."""

    def __init__(self, git: _Git, folder: Path, address: str) -> None:
        self._git, self._folder, self._address = git, folder, address

    def export(self, commit: str, target: Path, step: str, notify: Listener) -> None:
        """Fetch a commit and write its files into ``target``, as they are in the repository."""
        began = time.monotonic()
        notify(StepStarted(step))
        tar = self._folder.with_suffix(".tar")
        try:
            self._git("init", "--quiet", "--bare", "--template=", self._folder)
            (self._folder / "info").mkdir(exist_ok=True)
            (self._folder / "info" / "attributes").write_text(_ATTRIBUTES)
            self._in("fetch", "--quiet", "--depth=1", "--no-tags", "--", self._address, commit)
            self._in("archive", "--format=tar", f"--output={tar}", commit)
        except _Failed as error:
            raise SourceError(
                f"{self._address} does not give the commit {commit[:9]}: {error}", hint=_OTHERWISE
            ) from error
        target.mkdir(parents=True, exist_ok=True)
        archive.unpack(tar, target, wanted=lambda _: True)
        tar.unlink()
        notify(StepFinished(step, time.monotonic() - began))

    def pinned(self, commit: str, path: str) -> str | None:
        """The commit at which a submodule is checked out; none where ``path`` is no submodule."""
        kind, _, rest = self._in("ls-tree", commit, "--", path).partition(" commit ")
        return rest.split("\t")[0] if kind == "160000" else None

    def apply(self, patch: Path, top: Path, what: str) -> None:
        """Apply a patch below ``top`` as patch(1) would, whole or not at all."""
        # The names in git's own lines, "diff --git a/ggml", are not those of the two that count,
        # "--- a/llama.cpp/ggml": patch passes over the former, git insists that they agree.
        lines = patch.read_bytes().split(b"\n")
        plain = self._folder / "plain.patch"
        plain.write_bytes(b"\n".join(line for line in lines if line[:1] in _READ_BY_PATCH))
        try:
            self._in(f"--work-tree={top}", "apply", "--whitespace=nowarn", "-p1", plain, cwd=top)
        except _Failed as error:
            raise SourceError(
                f"llamafile's {patch.name} does not apply to {what}: {error}",
                hint="the checkout or its mirror is not what the release was made of; run "
                "`make setup` in a clone of llamafile, and give that folder as --source",
            ) from error

    def _in(self, *arguments: str | Path, cwd: Path | None = None) -> str:
        return self._git(f"--git-dir={self._folder}", *arguments, cwd=cwd)


def _commit(git: _Git, tag: str, address: str) -> str:
    """The commit that a tag means, an annotated one included."""
    try:
        lines = git("ls-remote", "--tags", "--", address).splitlines()
    except _Failed as error:
        raise SourceError(f"{address} cannot be reached: {error}", hint=_OTHERWISE) from error
    columns = [line.partition("\t") for line in lines]
    refs = {name.removeprefix("refs/tags/"): commit for commit, _, name in columns}
    # The releases up to 0.8 that begin a series are tagged without the last of three numbers.
    names = (f"{tag}^{{}}", tag, f"{tag.removesuffix('.0')}^{{}}", tag.removesuffix(".0"))
    commit = next((refs[name] for name in names if name in refs), None)
    if commit is None or not _COMMIT.fullmatch(commit):
        known = [name for name in refs if _TAG.fullmatch(name)]
        newest = ", ".join(sorted(known, key=_numbers, reverse=True)[:5]) or "none"
        raise SourceError(
            f"llamafile has no release {tag} at {address}", hint=f"the newest there: {newest}"
        )
    return commit


def _numbers(tag: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", tag)]


def _stated(git: _Git, top: Path, name: str, address: str) -> str:
    """Where a submodule comes from, as the release itself says it."""
    try:
        stated = git("config", "--file", top / ".gitmodules", f"submodule.{name}.url").strip()
    except _Failed as error:
        raise SourceError(
            f"the release does not say where its {name} comes from: {error}", hint=_OTHERWISE
        ) from error
    return urljoin(f"{address}/", stated) if stated.startswith(("./", "../")) else stated


def _address(declared: str, mirror: str | None, cwd: Path) -> str:
    """The repository that was declared, or the mirror's of the same name."""
    if mirror is None:
        return declared
    name = declared.rstrip("/").rpartition("/")[2].removesuffix(".git")
    folder = cwd / Path(mirror).expanduser()
    if "://" in mirror or (":" in mirror and not folder.exists()):  # user@host:folder, too
        return f"{mirror.rstrip('/')}/{name}.git"
    for candidate in (folder / f"{name}.git", folder / name):
        if candidate.is_dir():
            return str(candidate)
    raise SourceError(
        f"the mirror {folder} has no {name}.git",
        hint=f"git clone --mirror {declared} {folder / name}.git",
    )


def _reason(stderr: str) -> str:
    """Git's complaint without what it says beside."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    complaints = [line for line in lines if line.startswith(("fatal: ", "error: "))]
    return complaints[0].partition(": ")[2] if complaints else "".join(lines[-1:])


@cache
def _facts() -> dict[str, Any]:
    import tomllib

    return tomllib.loads(Path(__file__).with_name("release.toml").read_text("utf-8"))
