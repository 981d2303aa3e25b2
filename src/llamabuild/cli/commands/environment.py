"""``llamabuild env``."""

from __future__ import annotations

import sys

from llamabuild import pipeline
from llamabuild.cli.commands.call import Call, document, say, show
from llamabuild.cli.shells import script

__all__ = ["env", "explain", "settings_for"]


def env(call: Call) -> int:
    """Print the settings on stdout and their reasons on stderr, so that a shell can read them."""
    found = settings_for(call, call.arguments["module"])
    explain(call, found)
    if call.request.json:
        show(document(_described(found)))
    else:
        shell = call.request.shell or ("powershell" if sys.platform == "win32" else "sh")
        show(script(found.settings, shell))
        if shell == "docker" and found.backend == "hip":
            say(call, "the container also needs --device=/dev/kfd --device=/dev/dri\n")
    return 0


def settings_for(call: Call, named: str | None) -> pipeline.Environment:
    """Find the settings for a module, which is named as a file or by its key."""
    job = call.start()
    module = pipeline.module_to_try(job, named) if named else None
    return pipeline.environment(module, call.request.backend, dict(call.environ))


def explain(call: Call, found: pipeline.Environment) -> None:
    """Say why each variable is set, and what else there is to know."""
    for note in found.notes:
        call.renderer(note)
    for setting in found.settings:
        value = "is unset" if setting.value is None else f"= {setting.value}"
        say(call, f"{setting.name} {value}: {setting.reason}\n")
    if not found.settings:
        say(call, "nothing has to be set\n")


def _described(found: pipeline.Environment) -> dict[str, object]:
    return {
        "backend": found.backend,
        "module": None if found.module is None else str(found.module),
        "set": {each.name: each.value for each in found.settings if each.value is not None},
        "unset": [each.name for each in found.settings if each.value is None],
        "gpus": [
            {
                "index": fate.gpu.index,
                "name": fate.gpu.name,
                "arch": fate.gpu.arch,
                "runs": fate.runs,
                "runs_as": fate.override.runs_as if fate.override else None,
                "left_out": fate.left_out,
            }
            for fate in found.fates
        ],
        "notes": [note.text for note in found.notes],
    }
