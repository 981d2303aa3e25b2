"""How each shell, and Docker, is told to set a variable or to forget it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping

from llamabuild.pipeline import Setting

__all__ = ["SHELLS", "script"]


def script(settings: Iterable[Setting], shell: str) -> str:
    """Return what ``shell`` has to read, a line for each setting."""
    return "".join(f"{line}\n" for line in map(SHELLS[shell], settings) if line)


def _sh(setting: Setting) -> str:
    if setting.value is None:
        return f"unset {setting.name}"
    return f"export {setting.name}={shlex.quote(setting.value)}"


def _fish(setting: Setting) -> str:
    if setting.value is None:
        return f"set -e {setting.name}"
    value = setting.value.replace("\\", "\\\\").replace("'", "\\'")
    return f"set -gx {setting.name} '{value}'"


def _powershell(setting: Setting) -> str:
    if setting.value is None:
        return f"Remove-Item Env:{setting.name} -ErrorAction SilentlyContinue"
    value = setting.value.replace("'", "''")
    return f"$env:{setting.name} = '{value}'"


def _docker(setting: Setting) -> str:
    """An argument of ``docker run``: a container does not have what would have to be unset.

    Written ``docker run $(llamabuild env --shell docker) IMAGE``, it is not read by a shell again,
    so there is no way to quote; versions and lists of numbers need none.
    """
    return "" if setting.value is None else f"--env={setting.name}={setting.value}"


SHELLS: Mapping[str, Callable[[Setting], str]] = {
    "sh": _sh,
    "fish": _fish,
    "powershell": _powershell,
    "docker": _docker,
}
