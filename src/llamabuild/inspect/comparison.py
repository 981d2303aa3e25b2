"""What changed from one module to another. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from llamabuild.inspect.demangle import demangle
from llamabuild.inspect.model import Module

__all__ = ["Change", "Comparison", "compare"]


@dataclass(frozen=True)
class Change:
    """Names that only the second module has, and names that only the first one has."""

    added: tuple[str, ...]
    removed: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.added or self.removed)


@dataclass(frozen=True)
class Comparison:
    """From ``before`` to ``after``. Kernels go by readable names: mangled ones hold numbers that
    change with each compilation.
    """

    before: Module
    after: Module
    architectures: Change
    kernels: tuple[tuple[str, Change], ...]  # by architecture that both have, where they differ
    trapped: tuple[tuple[str, Change], ...]
    exported: Change
    needed: Change

    @property
    def lines(self) -> list[str]:
        """As text; one line that says so where nothing changed."""
        lines = _lines("architecture", self.architectures)
        for label, change in self.kernels:
            lines += _lines(f"{label}: kernel", change)
        for label, change in self.trapped:
            lines += [f"{label}: gives up now: {name}" for name in change.added]
            lines += [f"{label}: works now: {name}" for name in change.removed]
        lines += _lines("exported symbol", self.exported)
        lines += _lines("needed library", self.needed)
        lines += [
            f"{what}: {old or 'none'}, now {new or 'none'}"
            for what, old, new in (
                ("glibc", self.before.glibc, self.after.glibc),
                ("GLIBCXX", self.before.glibcxx, self.after.glibcxx),
                ("C++ runtime", self.before.cxx_runtime, self.after.cxx_runtime),
                ("ggml", self.before.ggml_version, self.after.ggml_version),
                ("ggml commit", self.before.ggml_commit, self.after.ggml_commit),
                ("soname", self.before.soname, self.after.soname),
                ("size in bytes", str(self.before.size_bytes), str(self.after.size_bytes)),
            )
            if old != new
        ]
        if self.before.sha256 == self.after.sha256:
            return ["The files are the same."]
        return lines or ["They differ in nothing that inspection looks at."]

    @property
    def document(self) -> dict[str, Any]:
        """As JSON."""

        def both(change: Change) -> dict[str, list[str]]:
            return {"added": list(change.added), "removed": list(change.removed)}

        return {
            "schema": 1,
            "files": [str(self.before.path), str(self.after.path)],
            "same": self.before.sha256 == self.after.sha256,
            "archs": both(self.architectures),
            "kernels": {label: both(change) for label, change in self.kernels},
            "trapped": {label: both(change) for label, change in self.trapped},
            "symbols": both(self.exported),
            "needed": both(self.needed),
            "glibc": [self.before.glibc or None, self.after.glibc or None],
            "glibcxx": [self.before.glibcxx or None, self.after.glibcxx or None],
            "cxx_runtime": [self.before.cxx_runtime or None, self.after.cxx_runtime or None],
            "ggml_version": [self.before.ggml_version or None, self.after.ggml_version or None],
            "ggml_commit": [self.before.ggml_commit or None, self.after.ggml_commit or None],
            "size_bytes": [self.before.size_bytes, self.after.size_bytes],
        }


def compare(before: Module, after: Module) -> Comparison:
    """Say what changed: architectures, kernels, which of them give up, symbols, libraries, size."""
    common = [label for label in before.labels if label in after.labels]
    kernels = [
        (label, _change(_kernels(before, label), _kernels(after, label))) for label in common
    ]
    trapped = [
        (
            label,
            _change(_kernels(before, label, "trapped"), _kernels(after, label, "trapped")),
        )
        for label in common
    ]
    return Comparison(
        before,
        after,
        _change(before.labels, after.labels),
        tuple((label, change) for label, change in kernels if change),
        tuple((label, change) for label, change in trapped if change),
        _change(before.exported, after.exported),
        _change(before.needed, after.needed),
    )


def _kernels(module: Module, label: str, trap: str = "") -> list[str]:
    return [
        demangle(kernel.name)
        for entry in module.entries
        if entry.label == label
        for kernel in entry.kernels or ()
        if not trap or kernel.trap == trap
    ]


def _change(before: Iterable[str], after: Iterable[str]) -> Change:
    old, new = dict.fromkeys(before), dict.fromkeys(after)
    return Change(
        tuple(name for name in new if name not in old),
        tuple(name for name in old if name not in new),
    )


def _lines(what: str, change: Change, most: int = 20) -> list[str]:
    lines = []
    for verb, names in (("added", change.added), ("removed", change.removed)):
        lines += [f"{what} {verb}: {name}" for name in names[:most]]
        if len(names) > most:
            lines.append(f"{what} {verb}: {len(names) - most} more")
    return lines
