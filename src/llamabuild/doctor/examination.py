"""All checks, section by section. One that fails is a line of the report, never the end of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

from llamabuild import run
from llamabuild.doctor import compilers, gpus, modules, platforms, settings, storage
from llamabuild.doctor.model import Line, Report, Section
from llamabuild.doctor.surroundings import Surroundings
from llamabuild.errors import LlamabuildError

__all__ = ["SECTIONS", "examine"]

Check: TypeAlias = Callable[[Surroundings], Iterator[Line]]

#: Seconds for all the programs that the checks start, together, and for each of them. A toolkit on
#: a cold disk takes one or two.
SECONDS, SECONDS_EACH = 10.0, 3.0

SECTIONS: Mapping[str, tuple[Check, ...]] = {
    "system": (
        platforms.system,
        platforms.packages,
        platforms.path,
        platforms.home,
        platforms.wsl,
        platforms.jetson,
        platforms.container,
    ),
    "gpus": (gpus.found, gpus.driver, gpus.compiled_for, gpus.compiled_for_amd),
    "toolkits": (
        compilers.toolkits,
        compilers.rocms,
        compilers.host_compilers,
        compilers.build_tools,
        compilers.launchers,
        compilers.variables,
    ),
    "settings": (settings.chosen,),
    "modules": (modules.sources, modules.llamafiles, modules.modules, modules.unfinished),
    "room": (storage.cache, storage.disk, storage.memory),
}


def examine(here: Surroundings, *, seconds: float = SECONDS) -> Report:
    """Look at everything and change nothing. Raises nothing but what ends the program.

    :param seconds: for all the programs that are asked; what has no answer then is said to have
        none.
    """
    with run.within(seconds, each=SECONDS_EACH):
        return Report(
            tuple(
                Section(name, tuple(line for check in checks for line in _guarded(check, here)))
                for name, checks in SECTIONS.items()
            )
        )


def _guarded(check: Check, here: Surroundings) -> Iterator[Line]:
    try:
        yield from check(here)
    except LlamabuildError as error:
        yield Line("trouble", error.message, error.hint)
    except Exception as error:  # noqa: BLE001 -- a report about a broken machine must not break
        name = check.__name__.replace("_", " ")
        yield Line(
            "trouble",
            f"the check of {name} failed: {type(error).__name__}: {error}",
            "report this with the output of llamabuild doctor --json",
        )
