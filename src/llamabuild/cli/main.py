"""From a command line to an exit code: where errors become words, and signals become an end."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from itertools import takewhile
from typing import NoReturn

from llamabuild.cli import commands
from llamabuild.cli.commands.call import complain, show
from llamabuild.cli.parser import parse
from llamabuild.cli.render import Renderer
from llamabuild.errors import InterruptedByUser, LlamabuildError
from llamabuild.replay import Recorded
from llamabuild.settings import resolve

__all__ = ["main"]


def main(argv: Sequence[str]) -> int:
    """Run one command and return its exit code; nothing is raised for what a user can cause."""
    signal.signal(signal.SIGTERM, _terminated)
    environ = Recorded(os.environ)
    own = set(takewhile(lambda word: word != "--", argv))  # the rest is another program's
    as_json = "--json" in own
    renderer = Renderer(environ, quiet=bool({"-q", "--quiet"} & own))
    try:
        named = vars(parse(argv))
        command = named.pop("command")
        arguments = {name: named.pop(name) for name in commands.ARGUMENT_NAMES if name in named}
        request = resolve(named, environ, command)
        renderer = Renderer(environ, verbose=request.verbose, quiet=request.quiet)
        call = commands.Call(tuple(argv), request, arguments, environ, renderer)
        return commands.command(command)(call)
    except LlamabuildError as error:
        renderer.close()
        return _fail(error, as_json)
    except KeyboardInterrupt:
        renderer.close()
        return _fail(InterruptedByUser("interrupted; nothing was left behind"), as_json)
    except BrokenPipeError:
        # The reader of stdout went away: its business, and nothing is left to say to it.
        return 141
    finally:
        renderer.close()


def _fail(error: LlamabuildError, as_json: bool) -> int:
    if as_json:
        document = {
            "error": {
                "code": error.exit_code,
                "type": type(error).__name__,
                "message": error.message,
                "hint": error.hint,
            }
        }
        with suppress(LlamabuildError, BrokenPipeError):  # stdout may be what is wrong
            show(json.dumps(document, indent=2) + "\n")
    complain(error)
    return error.exit_code


def _terminated(_number: int, _frame: object) -> NoReturn:
    """Leave as Ctrl-C does, so that compilers are stopped and locks let go."""
    raise KeyboardInterrupt
