"""From a plan to a module, in a folder of its own.

What is compiled is a copy of exactly those files that the source's digest covers, under a
relative name: the user's folder is never written to, and neither its path nor the cache's gets
into the module.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path
from typing import TextIO

from llamabuild.engine import own, tree
from llamabuild.engine.site import Site, Tools
from llamabuild.events import Listener
from llamabuild.planning import Plan
from llamabuild.toolchain import Rocm, compiler_environment, hip_environment

__all__ = ["compile_plan"]

#: nvcc hands some of a foreign project's arguments to a shell, unquoted: a folder to try such a
#: project in has nothing but these in its name.
_PLAIN = re.compile(r"[\w/.+:-]+", re.ASCII)
#: CMake's own trials of a compiler fail where its folder's name has one of these.
_NOT_FOR_CMAKE = re.compile(r'[;"\\\n\r]')


def compile_plan(plan: Plan, folder: Path, tools: Tools, log: TextIO, notify: Listener) -> Path:
    """Build ``plan`` inside ``folder`` and return the module's path in it.

    :param folder: an existing private folder; everything is written below it.
    :param log: gets every line that CMake, Ninja and the compilers print.
    :raises CompilationError: a compiler, linker or CMake failed.
    :raises ToolchainError: a tool cannot be started, or a library to link is missing.
    :raises StoreError: a compiler found the disk full.
    :raises OSError: the folder cannot be written, or the source is gone.
    """
    if _is_hard(folder.as_posix(), foreign=plan.flavor == "backend-dl"):
        with tempfile.TemporaryDirectory(prefix="llamabuild-") as elsewhere:
            module = _compile_in(Path(elsewhere), plan, tools, log, notify)
            return Path(shutil.move(module, folder / plan.module))
    return _compile_in(folder, plan, tools, log, notify)


def _is_hard(folder: str, *, foreign: bool) -> bool:
    """Whether compilers stumble over the name of a folder."""
    return bool(_NOT_FOR_CMAKE.search(folder)) or (foreign and not _PLAIN.fullmatch(folder))


def _compile_in(folder: Path, plan: Plan, tools: Tools, log: TextIO, notify: Listener) -> Path:
    environment = (
        hip_environment(tools.environ, rocm=plan.toolkit)
        if isinstance(plan.toolkit, Rocm)
        else compiler_environment(plan.toolkit, plan.host_compiler, tools.environ)
    )
    site = Site(plan, folder, tools, environment, log, notify)
    for name in plan.source.files:
        copy = site.tree / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(plan.source.root / name, copy)
    return tree.build(site) if plan.flavor == "backend-dl" else own.build(site)
