"""What a tree says about its own version, read from files only: git is not asked."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["of_ggml", "of_tree", "read_from"]

_PARTS = re.compile(rb"GGML_VERSION_(MAJOR|MINOR|PATCH)[ \t]+(\d+)\)")
_PROJECT = re.compile(r"project\s*\(\s*\"?[\w.]+\"?\s+VERSION\s+([\d.]+)", re.IGNORECASE)
_LLAMAFILE = re.compile(r"#define LLAMAFILE_(MAJOR|MINOR|PATCH) (\d+)")
_SDIST = re.compile(r"^Version:\s*(\S+)", re.MULTILINE)
_COMMIT = re.compile(r"[0-9a-f]{40,64}")


def of_ggml(cmake: bytes) -> str | None:
    """Return ggml's version as its CMake files set it, part by part (since 0.9)."""
    parts = {name.decode(): value.decode() for name, value in _PARTS.findall(cmake)}
    return (
        ".".join(parts[name] for name in ("MAJOR", "MINOR", "PATCH")) if len(parts) == 3 else None
    )


def of_tree(root: Path, kind: str, ggml_version: str | None) -> str | None:
    """Return the version that fits the kind of tree, else the tag or commit checked out."""
    stated = None
    if kind == "llama-cpp-python":
        stated = _search(_SDIST, root / "PKG-INFO")
    elif kind == "llamafile":
        parts = dict(_LLAMAFILE.findall(_text(root / "llamafile/version.h")))
        stated = (
            ".".join(parts[n] for n in ("MAJOR", "MINOR", "PATCH")) if len(parts) == 3 else None
        )
    elif kind == "whisper.cpp":
        stated = _search(_PROJECT, root / "CMakeLists.txt")
    elif kind == "ggml":
        stated = ggml_version
    return stated or _checked_out(root)


def read_from(root: Path) -> list[Path]:
    """Return the files that :func:`of_tree` may look at; git writes one at each checkout."""
    names = ("PKG-INFO", "CMakeLists.txt", "llamafile/version.h")
    git = (".git", ".git/HEAD", ".git/logs/HEAD", ".git/packed-refs")
    return [root / name for name in (*names, *git)]


def _checked_out(root: Path) -> str | None:
    """The tag at ``HEAD`` if there is one, else the commit in seven digits."""
    git = root / ".git"
    if git.is_file():  # a submodule or a second work tree
        git = root / _text(git).removeprefix("gitdir:").strip()
    common = git / _text(git / "commondir").strip()
    head = _text(git / "HEAD").strip()
    refs = _refs(common)
    if head.startswith("ref:"):
        name = head.removeprefix("ref:").strip()
        head = _text(common / name).strip() or refs.get(name, "")
    if not _COMMIT.fullmatch(head):
        return None
    tags = sorted(
        name.removeprefix("refs/tags/")
        for name, commit in refs.items()
        if name.startswith("refs/tags/") and commit == head
    )
    return tags[-1] if tags else head[:7]


def _refs(git: Path) -> dict[str, str]:
    """Every reference git keeps in files; an annotated tag counts with the commit it names."""
    refs: dict[str, str] = {}
    last = ""
    for line in _text(git / "packed-refs").splitlines():
        if line.startswith("^"):
            refs[last] = line[1:].strip()
        elif " " in line and not line.startswith("#"):
            commit, last = line.split(" ", 1)
            refs[last] = commit
    tags = git / "refs/tags"
    for path in tags.rglob("*") if tags.is_dir() else ():
        refs.setdefault(f"refs/tags/{path.relative_to(tags).as_posix()}", _text(path).strip())
    return refs


def _search(pattern: re.Pattern[str], path: Path) -> str | None:
    found = pattern.search(_text(path))
    return found[1] if found else None


def _text(path: Path) -> str:
    """The contents of a small file; nothing if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(1 << 20).decode("utf-8", "replace")
    except OSError:
        return ""
