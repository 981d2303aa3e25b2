"""From what a user said, by flags or variables, to a checked request."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from llamabuild.errors import UsageError
from llamabuild.settings.options import OPTIONS, Option, Request

__all__ = ["resolve"]

#: What a compiler takes as a definition: a name, the arguments of a macro, one line of a value.
_DEFINITION = re.compile(r"[A-Za-z_]\w*(\([^()]*\))?(=[^\n\r]*)?", re.ASCII)
#: Numbers with as many digits fit no 32 bits, and mean nothing anywhere.
_DIGITS = 10


def resolve(
    given: Mapping[str, Any], environ: Mapping[str, str], command: str = "build"
) -> Request:
    """Fill what the user left open from the environment and the defaults.

    :param given: option name -> value, with absent or ``None`` meaning "not said".
    :param command: its options alone are looked up in the environment.
    :raises UsageError: an unknown name, a value of the wrong kind or outside the choices, a
        contradiction between two options.
    """
    names = [option.name for option in OPTIONS]
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, names) or names
            raise UsageError(f"there is no option {name!r}", hint=", ".join(near))
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for option in OPTIONS:
        heeded = environ if command in option.commands else {}
        value, origin = _first_said(option, given, heeded, hip=values.get("backend") == "hip")
        values[option.name] = value if origin == "default" else _checked(option, value, origin)
        origins[option.name] = origin
    request = Request(**values, origins=origins)
    for definition in request.defines:
        if not _DEFINITION.fullmatch(definition):
            raise UsageError(
                f"--define: {definition!r} is no definition", hint="--define NAME, or NAME=VALUE"
            )
    _refuse_contradictions(request)
    return request


def _first_said(
    option: Option, given: Mapping[str, Any], environ: Mapping[str, str], *, hip: bool
) -> tuple[Any, str]:
    if given.get(option.name) is not None:
        return given[option.name], option.flag
    for variable in (hip and option.hip_variables) or option.variables:
        said = environ.get(variable, "").strip()
        if said:
            return said, variable
    return option.default, "default"


def _checked(option: Option, value: Any, origin: str) -> Any:
    """Return ``value`` as its kind wants it, or say what is wrong with it."""
    try:
        if option.kind == "text":
            return _text(value, option.choices)
        if option.kind == "list":
            return _texts(value)
        if option.kind == "number":
            return _whole_number(value, least=option.least)
        if option.kind == "count":
            return _whole_number(value, least=0)
        return _truth(value)
    except (TypeError, ValueError) as problem:
        example = {"text": "|".join(option.choices), "number": "2"}.get(option.kind, "")
        raise UsageError(
            f"{origin}: {value!r} is {problem}",
            hint=f"{option.flag} {example or option.metavar}".strip(),
        ) from None


def _text(value: Any, choices: Sequence[str]) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | os.PathLike):
        raise TypeError("not text")
    text = str(value)
    if choices and text not in choices:
        raise ValueError(f"not one of {', '.join(choices)}")
    return _said(text)


def _texts(value: Any) -> tuple[str, ...]:
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
        raise TypeError("not a list of texts")
    return tuple(map(_said, items))


def _said(text: str) -> str:
    """Refuse ``--toolkit "$UNSET"``, which must not come to mean that nothing was said."""
    if not text.strip() or "\0" in text:
        raise ValueError("no text that means anything")
    return text


def _whole_number(value: Any, *, least: int) -> int:
    text = str(value)
    if not text.isdecimal() or int(text[:_DIGITS]) < least:
        raise ValueError(f"not a whole number of at least {least}")
    if len(text) >= _DIGITS:
        raise ValueError("too large")
    return int(text)


def _truth(value: Any) -> bool:
    text = str(value).lower()
    if text in {"1", "on", "true", "yes"}:
        return True
    if text in {"0", "off", "false", "no"}:
        return False
    raise ValueError("neither on nor off")


def _refuse_contradictions(request: Request) -> None:
    def contradict(first: str, second: str) -> UsageError:
        return UsageError(
            f"{request.origin(first)} and {request.origin(second)} contradict each other",
            hint="leave one of the two out",
        )

    if request.force_mmq and request.force_cublas:
        raise contradict("force_mmq", "force_cublas")
    if request.force_cublas and request.blas == "tiny":
        raise UsageError(
            "--force-cublas needs cuBLAS, and --blas tiny leaves it out", hint="--blas cublas"
        )
    if request.quiet and request.verbose:
        raise contradict("quiet", "verbose")
