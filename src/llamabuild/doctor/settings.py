"""What the environment decides without being asked: where a value comes from."""

from __future__ import annotations

from collections.abc import Iterator

from llamabuild import arch
from llamabuild.doctor.model import Line
from llamabuild.doctor.surroundings import Surroundings
from llamabuild.errors import LlamabuildError
from llamabuild.settings import OPTIONS, resolve

__all__ = ["chosen"]


def chosen(here: Surroundings) -> Iterator[Line]:
    """Every option that a variable sets; a value that cannot be used is trouble."""
    request = resolve({}, here.environ)
    for option in OPTIONS:
        origin = request.origin(option.name)
        if origin == "default":
            continue
        value = getattr(request, option.name)
        yield Line("ok", f"{option.flag} is {value!r}, from {origin}")
        if option.name == "arch":
            try:
                arch.parse(value)
            except LlamabuildError as error:
                cure = f"unset {origin}" + (f"; {error.hint}" if error.hint else "")
                yield Line("trouble", error.message, cure)
