"""One function a command: call the library, print what it returns.

A command is imported when it is called: the others would only delay it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module

from llamabuild.cli.commands.call import ARGUMENT_NAMES, Call

__all__ = ["ARGUMENT_NAMES", "COMMANDS", "Call", "command"]

#: Command -> where its function is, as ``module.function`` of this package.
COMMANDS: Mapping[str, str] = {
    "build": "building.build",
    "plan": "building.plan",
    "detect": "detecting.detect",
    "inspect": "inspecting.inspect",
    "env": "environment.env",
    "run": "running.run",
    "cache": "caching.cache",
    "verify": "verifying.verify",
    "bench": "verifying.bench",
    "doctor": "doctoring.doctor",
    "advise": "advising.advise",
    "install": "installing.install",
    "embed": "embedding.embed",
    "rollback": "rolling_back.rollback",
    "status": "showing_status.status",
}


def command(name: str) -> Callable[[Call], int]:
    """Return the function that runs a command and returns its exit code."""
    module, _, function = COMMANDS[name].partition(".")
    found: Callable[[Call], int] = getattr(import_module(f"{__name__}.{module}"), function)
    return found
