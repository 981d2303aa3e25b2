"""Compiler commands as a graph, whichever compiler they are for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llamabuild.engine.cmake import quote

__all__ = ["Graph", "Stage"]

#: Relative cost of a compiler's steps, read off llamafile 0.9.3 with nvcc (cicc 407 s, ptxas 142 s,
#: host 23 s) and 0.8.1 with clang (each target 40 s, host 4 s).
_WEIGHTS = {"cicc": 70.0, "ptxas": 25.0, "clang": 40.0, "compiler": 4.0}
_OTHERS = 0.2


@dataclass(frozen=True)
class Stage:
    """One command: what it makes, what it needs, and a short name for the user.

    ``tool`` is ``cicc``, ``ptxas``, ``clang``, ``preprocessor``, ``compiler`` (the host's) or
    another name.
    """

    label: str
    tool: str
    argv: tuple[str, ...]
    makes: tuple[str, ...]
    needs: tuple[str, ...]


@dataclass(frozen=True)
class Graph:
    """All stages of one module's device code; file names are relative to the source.

    ``files`` are to be written before the first stage runs, by name; ``environment`` is what the
    tools need beside the compilers' own; ``objects`` are what the linker gets.
    """

    stages: tuple[Stage, ...]
    objects: tuple[str, ...]
    files: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)

    def script(self, tree: Path) -> str:
        """The graph in CMake's words: a custom command a stage, and the objects to link."""
        lines = []
        for stage in self.stages:
            makes = " ".join(quote(str(tree / name)) for name in stage.makes)
            needs = " ".join(quote(str(tree / name)) for name in stage.needs)
            command = " ".join(quote(word) for word in stage.argv)
            lines.append(
                f"add_custom_command(OUTPUT {makes}\n  COMMAND {command}\n  DEPENDS {needs}\n"
                f"  WORKING_DIRECTORY {quote(str(tree))} COMMENT {quote(stage.label)} VERBATIM)\n"
            )
        objects = " ".join(quote(str(tree / name)) for name in self.objects)
        return "".join(lines) + f"set(llamabuild_stage_objects {objects})\n"

    def weights(self) -> Mapping[str, float]:
        """What each stage costs, by its label."""
        return {stage.label: _WEIGHTS.get(stage.tool, _OTHERS) for stage in self.stages}
