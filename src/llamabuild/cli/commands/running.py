"""``llamabuild run``."""

from __future__ import annotations

import os
from pathlib import Path

from llamabuild.cli.commands.call import Call
from llamabuild.cli.commands.environment import explain, settings_for
from llamabuild.errors import ArchitectureError, UsageError
from llamabuild.events import Note
from llamabuild.run import CannotStart, become

__all__ = ["run"]


def run(call: Call) -> int:
    """Become the program, in the environment that ``env`` prints.

    Where there is nothing to set, because no GPU is there or none runs the module, the program is
    started all the same: it may well have a processor to run on.
    """
    program = call.arguments["program"]
    if not program:
        raise UsageError("run needs a program", hint="llamabuild run -- ./some.llamafile --help")
    environ = dict(call.environ)
    try:
        found = settings_for(call, call.request.given_module)
    except ArchitectureError as error:
        call.renderer(Note("warning", f"started as it is: {error.message}"))
    else:
        explain(call, found)
        environ = found.applied(environ)
    call.renderer.close()
    try:
        return become(program, env=environ)
    except CannotStart as error:
        raise UsageError(str(error), hint=_hint(program[0])) from error


def _hint(name: str) -> str:
    path = Path(name)
    if path.is_dir():
        return "name a program, not a folder"
    if path.is_file() and not os.access(path, os.X_OK):
        return f"chmod +x {name}"
    if path.is_file() and "/" not in name:
        return f"llamabuild run -- ./{name}"
    return "llamabuild run -- ./some.llamafile --help"
