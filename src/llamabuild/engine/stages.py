"""nvcc's own steps, as a graph.

nvcc compiles one file in a chain: for each architecture the preprocessor, cicc and ptxas, then
fatbinary, cudafe++ and the host compiler, one after another. ``nvcc --dryrun`` prints that chain.
Here it becomes a graph whose independent steps run at once and can be counted, with the commands
left as nvcc wrote them but for three things:

- nvcc lets the first cicc invent the "module id" (a name for what is local to the file), so all
  others wait for it. The id is written beforehand instead, from the source's name and digest.
- The host compiler includes the finished device code as text, so it waits for everything. It gets
  a stand-in that only declares the symbol; the device code is assembled beside it from the binary
  file. (The wrapper's layout is the toolkit's own ``fatbinary_section.h``, which clang relies on
  in the same way.)
- Files that only exist to be deleted are not deleted.

A dependency needs no knowledge of the tools: the first command that names a temporary file makes
it, and every later one that names it needs it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from string import Template

from llamabuild.engine.graph import Graph, Stage

__all__ = ["FATBIN_SOURCE", "NotUnderstood", "parse"]


class NotUnderstood(Exception):
    """nvcc's plan does not look as expected; the caller runs nvcc as a whole instead."""


#: Stands where the host compiler would include the finished device code.
FATBIN_SOURCE = """\
#include "fatbinary_section.h"
extern "C" __attribute__((visibility("hidden"))) const unsigned long long {symbol}[];
static const __fatBinC_Wrapper_t __fatDeviceText
    __attribute__((used, aligned(8), section(".nvFatBinSegment"))) =
    {{ 0x466243b1, 1, {symbol}, 0 }};
"""

#: The device code itself, as an object of its own.
FATBIN_ASSEMBLY = """\
.section .nv_fatbin, "a"
.balign 8
.globl {symbol}
.hidden {symbol}
{symbol}:
.incbin "{fatbin}"
.balign 8
.section .note.GNU-stack, "", %progbits
"""

_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)")
#: What nvcc prints with every command, and what its tools read from the environment.
_TOOL_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "NVVMIR_LIBRARY_DIR")


def parse(dryrun: str, *, folder: str, host_compiler: str, module_id: str) -> Graph:
    """Read what ``nvcc --dryrun --keep --keep-dir FOLDER -c …`` printed.

    :param folder: the keep folder as it was given, relative and of plain characters.
    :param host_compiler: assembles the device code into an object.
    :param module_id: the name for file-local symbols; letters, digits and ``_``.
    :raises NotUnderstood: the chain lacks a step that every chain has.
    """
    variables, commands = _split(dryrun)
    temporary = re.compile(re.escape(folder) + r"""/[^"'\s,;]+""")
    fatbin = _only(commands, "--create=", temporary)
    id_file = _only(commands, "--module_id_file_name", temporary)
    stem = fatbin.removesuffix(".fatbin")
    symbol = f"llamabuild_{module_id}"
    files = {
        id_file: module_id,
        f"{stem}.fatbin.c": FATBIN_SOURCE.format(symbol=symbol),
        f"{stem}.fatbin.s": FATBIN_ASSEMBLY.format(symbol=symbol, fatbin=fatbin),
    }
    *chain, last = commands
    stages: list[Stage] = []
    made: set[str] = set()
    for argv, later in zip(chain, _mentioned_later(commands, temporary), strict=False):
        named = [name for name in _mentions(argv, temporary) if name not in files]
        # cicc names files that no later step reads and that it may not even write: no promise.
        makes = [
            name
            for name in named
            if name not in made and (name in later or name == fatbin or _is_stub(name))
        ]
        needs = [name for name in named if name in made]
        made.update(makes)
        stages.append(Stage(*_names(argv), _edited(argv), tuple(makes), tuple(needs)))
    host_object = last[last.index("-o") + 1]
    needs = [name for name in _mentions(last, temporary) if name in made]
    stubs = [name for name in made if _is_stub(name) and _belongs(name, last)]
    if not needs or len(stubs) != 1:
        raise NotUnderstood("the host compiler's input was not found in nvcc's plan")
    label, _ = _names(last)
    stages.append(Stage(label, "compiler", last, (host_object,), (*needs, *stubs)))
    device_object = f"{stem}.fatbin.o"
    stages.append(
        Stage(
            "assemble device code",
            "assembler",
            (host_compiler, "-c", f"{stem}.fatbin.s", "-o", device_object),
            (device_object,),
            (fatbin,),
        )
    )
    environment = {name: variables[name] for name in _TOOL_VARIABLES if name in variables}
    return Graph(tuple(stages), (host_object, device_object), files=files, environment=environment)


def _split(dryrun: str) -> tuple[dict[str, str], list[tuple[str, ...]]]:
    """Take the lines apart: variables that nvcc sets, then commands with those filled in."""
    variables: dict[str, str] = {}
    commands: list[tuple[str, ...]] = []
    for line in dryrun.splitlines():
        if not line.startswith("#$ "):
            continue
        text = line.removeprefix("#$ ").strip()
        assignment = _ASSIGNMENT.fullmatch(text)
        if assignment and not commands:
            variables[assignment[1]] = assignment[2].strip()
            continue
        try:
            words = shlex.split(text)
        except ValueError as error:
            raise NotUnderstood(f"a command of nvcc's plan cannot be read: {error}") from error
        argv = tuple(Template(word).safe_substitute(variables) for word in words)
        if argv and argv[0] != "rm":
            commands.append(argv)
    if not commands or "-o" not in commands[-1]:
        raise NotUnderstood("nvcc printed no plan")
    return variables, commands


def _only(commands: Iterable[Sequence[str]], option: str, temporary: re.Pattern[str]) -> str:
    """The one file that an option names, in ``--option=FILE`` or ``--option FILE`` form."""
    found: set[str] = set()
    for argv in commands:
        for position, word in enumerate(argv):
            if word == option:
                found.update(temporary.findall(argv[position + 1]))
            elif option.endswith("=") and word.startswith(option):
                found.update(temporary.findall(word))
    if len(found) != 1:
        raise NotUnderstood(f"nvcc's plan names {len(found)} files for {option}")
    return found.pop()


def _mentions(argv: Sequence[str], temporary: re.Pattern[str]) -> list[str]:
    return list(dict.fromkeys(name for word in argv for name in temporary.findall(word)))


def _mentioned_later(
    commands: Sequence[Sequence[str]], temporary: re.Pattern[str]
) -> list[set[str]]:
    """For each command, the files that commands after it name."""
    later: list[set[str]] = []
    seen: set[str] = set()
    for argv in reversed(commands):
        later.append(set(seen))
        seen.update(_mentions(argv, temporary))
    return later[::-1]


def _edited(argv: Sequence[str]) -> tuple[str, ...]:
    """The command without the two things that are prepared beforehand."""
    return tuple(
        word
        for word in argv
        if word != "--gen_module_id_file" and not word.startswith("--embedded-fatbin")
    )


def _is_stub(name: str) -> bool:
    return name.endswith(".stub.c")


def _belongs(stub: str, argv: Sequence[str]) -> bool:
    """Whether the host's file includes this stub: x.cudafe1.cpp includes x.cudafe1.stub.c."""
    return stub.removesuffix(".stub.c") + ".cpp" in argv


def _names(argv: Sequence[str]) -> tuple[str, str]:
    """A few words that a user can follow, and the tool: ``cicc compute_90``, ``cicc``."""
    program = re.split(r"[/\\]", argv[0])[-1]
    if "-E" in argv:
        level = next((word for word in argv if word.startswith("-D__CUDA_ARCH__=")), "")
        return f"{program} preprocessor {level.partition('=')[2]}".strip(), "preprocessor"
    for position, word in enumerate(argv):
        if word == "-arch":
            return f"{program} {argv[position + 1]}", program
        if word.startswith("-arch="):
            return f"{program} {word.partition('=')[2]}", program
    return program, program
