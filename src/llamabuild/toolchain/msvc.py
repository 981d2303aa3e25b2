"""Find Microsoft's C++ compiler, and the environment without which it does not run.

cl.exe works only in the environment that Visual Studio's script ``VsDevCmd.bat`` sets up. So the
script is run once, for the newest tools that the toolkit accepts, and what it set is read back.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from llamabuild.errors import ToolchainError
from llamabuild.memo import Memo
from llamabuild.toolchain.facts import facts, numbers
from llamabuild.toolchain.model import HostCompiler, Machine, Toolkit
from llamabuild.toolchain.programs import Unusable, ask, on_path

__all__ = ["find_msvc", "msc_ver", "parse_environment"]

#: Printed between what the script says and the variables.
MARKER = "--- llamabuild: variables ---"


@dataclass(frozen=True)
class Tools:
    """One set of VC tools: ``14.44.35207`` below ``VC/Tools/MSVC`` of an installation."""

    version: str
    installation: Path

    @property
    def cl(self) -> Path:
        """The compiler for 64-bit x86, itself a 64-bit program."""
        return self.installation / "VC/Tools/MSVC" / self.version / "bin/Hostx64/x64/cl.exe"


def find_msvc(
    toolkit: Toolkit,
    environ: Mapping[str, str],
    *,
    explicit: str | None,
    memo: Memo,
    machine: Machine,
) -> HostCompiler:
    """Return the newest MSVC that ``toolkit`` accepts, with the environment it needs.

    In a developer's command prompt (cl.exe on PATH, ``VCToolsVersion`` set) that very compiler.

    :param explicit: the path of a cl.exe, which must belong to an installation that vswhere knows.
    :raises ToolchainError: there is none, or all are too new or too old for the toolkit.
    """
    prompt = environ.get("VCTOOLSVERSION")
    cl = next(on_path("cl", environ, machine), None)
    if prompt and cl and not explicit and _accepted(prompt, toolkit):
        return _compiler(cl, prompt, "developer command prompt", ())
    installed = sorted(_installed(environ), key=lambda tools: numbers(tools.version), reverse=True)
    if explicit:
        installed = [tools for tools in installed if tools.cl == Path(explicit)]
    for tools in installed:
        if _accepted(tools.version, toolkit):
            variables = memo.recall(
                f"MSVC environment of {tools.version}, 1",
                [tools.cl, _script(tools)],
                lambda: _environment(tools, environ),  # noqa: B023 -- called at once
            )
            return _compiler(
                tools.cl,
                tools.version,
                "--host-compiler" if explicit else "vswhere",
                tuple((name, value) for name, value in variables),
            )
    raise _error(toolkit, installed, explicit)


def msc_ver(tools_version: str) -> int:
    """The ``_MSC_VER`` of a version of the VC tools: 1944 of ``14.44.35207``."""
    major, minor = numbers(tools_version)[:2]
    return (major + 5) * 100 + minor


def _accepted(version: str, toolkit: Toolkit) -> bool:
    return toolkit.msvc is None or toolkit.msvc[0] <= msc_ver(version) < toolkit.msvc[1]


def _compiler(
    cl: Path, version: str, found_via: str, environment: tuple[tuple[str, str], ...]
) -> HostCompiler:
    return HostCompiler(
        path=cl, cc=cl, kind="msvc", version=version, found_via=found_via, environment=environment
    )


def _installed(environ: Mapping[str, str]) -> Iterator[Tools]:
    """Every set of VC tools of every Visual Studio that vswhere, which comes with all, knows of."""
    programs = environ.get("PROGRAMFILES(X86)", r"C:\Program Files (x86)")
    vswhere = Path(programs, "Microsoft Visual Studio", "Installer", "vswhere.exe")
    if not vswhere.is_file():
        return
    query: list[str | Path] = [vswhere, "-products", "*", "-utf8", "-property", "installationPath"]
    try:
        answer = ask(query, environ)
    except Unusable as problem:
        raise ToolchainError(
            f"{vswhere}: {problem.reason}", hint=facts()["install"]["msvc"]
        ) from None
    for line in answer.splitlines():
        installation = Path(line.strip())
        folder = installation / "VC" / "Tools" / "MSVC"
        if line.strip() and folder.is_dir():
            for version in sorted(entry.name for entry in folder.iterdir()):
                tools = Tools(version, installation)
                if len(numbers(version)) > 1 and tools.cl.is_file():
                    yield tools


def _script(tools: Tools) -> Path:
    return tools.installation / "Common7" / "Tools" / "VsDevCmd.bat"


def _environment(tools: Tools, environ: Mapping[str, str]) -> list[tuple[str, str]]:
    """Run Visual Studio's script and return what it set."""
    from tempfile import TemporaryDirectory  # not needed once the answer is remembered

    # A batch file of our own, called by its bare name, has no path that cmd.exe could misread;
    # code page 65001 makes `set` print UTF-8.
    batch = (
        "@chcp 65001 >nul\r\n"
        f'@call "{_script(tools)}" -no_logo -arch=x64 -host_arch=x64 '
        f"-vcvars_ver={tools.version}\r\n"
        "@if errorlevel 1 exit /b 1\r\n"
        f"@echo {MARKER}\r\n"
        "@set\r\n"
    )
    clean = {
        name: value for name, value in environ.items() if name not in ("INCLUDE", "LIB", "LIBPATH")
    }
    with TemporaryDirectory(prefix="llamabuild-") as folder:
        Path(folder, "ask.bat").write_bytes(batch.encode())
        shell = environ.get("COMSPEC", "cmd.exe")
        try:
            text = ask([shell, "/d", "/c", "ask.bat"], clean, cwd=Path(folder))
        except Unusable as problem:
            raise ToolchainError(
                f"{_script(tools)} failed: {problem.reason}",
                hint='start llamabuild in the "x64 Native Tools Command Prompt"',
            ) from None
    return parse_environment(text, clean)


def parse_environment(text: str, before: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the variables that differ from ``before`` in what the batch file printed.

    Names are in upper case, as Windows does not tell them apart. PATH keeps only what was added,
    so that what is remembered stays true when a user's PATH changes.
    """
    known = {name.upper(): value for name, value in before.items()}
    _, _, listing = text.partition(MARKER)
    found: list[tuple[str, str]] = []
    for line in listing.splitlines():
        name, equals, value = line.partition("=")
        name = name.upper()
        if not equals or not name or known.get(name) == value:
            continue
        if name == "PATH":
            inherited = set(known.get("PATH", "").split(os.pathsep))
            value = os.pathsep.join(p for p in value.split(os.pathsep) if p and p not in inherited)
        found.append((name, value))
    return sorted(found)


def _error(toolkit: Toolkit, installed: list[Tools], explicit: str | None) -> ToolchainError:
    hint = facts()["install"]["msvc"]
    if not installed:
        missing = f"{explicit} belongs to no Visual Studio that" if explicit else "no MSVC that"
        return ToolchainError(
            f"{missing} vswhere knows of was found, and nvcc needs one", hint=hint
        )
    assert toolkit.msvc is not None
    first, end = toolkit.msvc
    listed = "".join(f"\n  {tools.cl}: is MSVC {msc_ver(tools.version)}" for tools in installed)
    return ToolchainError(
        f"no MSVC here works with {toolkit.label}, which accepts _MSC_VER from {first} to below "
        f"{end}:{listed}",
        hint=f"add fitting VC tools in the Visual Studio Installer, or {hint}",
    )
