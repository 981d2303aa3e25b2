"""The commands, each with its words and the arguments that stand on its line without a flag."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["ARGUMENTS", "COMMANDS", "Argument"]

#: Command -> what it does, in one line.
COMMANDS: Mapping[str, str] = {
    "build": "compile a GPU module, or answer from the cache (the default command)",
    "plan": "show what build would do, without compiling",
    "detect": "show the GPUs that are there, and what is wrong with the driver",
    "inspect": "show which architectures, kernels and symbols a finished module holds",
    "verify": "multiply with a module on this machine's GPU, type by type, against a reference",
    "bench": "time our own kernels on this machine's GPU",
    "install": "build a module for a llamafile, prove it, and put it where that llamafile takes it",
    "embed": "put a module into a llamafile, or take one out, and leave all else in it as it is",
    "rollback": "bring back the module that was there before",
    "status": "show every llamafile and module found, which is taken, and whether it would run",
    "env": "print what to set so that the GPUs of this machine run a module",
    "run": "start a program with what env prints",
    "advise": "say which quantizations and flags suit a GPU, and what of a model fits on it",
    "cache": "list, check and clean the cached modules",
    "doctor": "report on this machine, what is wrong with it and what mends it; changes nothing",
}


@dataclass(frozen=True)
class Argument:
    """What stands on the command line without a flag.

    ``count`` is as argparse's ``nargs``; "..." takes everything from the first word that is no
    option, or from what follows a ``--``, as it is.
    """

    name: str
    help: str
    count: str | None = None
    choices: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        """How it stands in a line of usage: ``FILE``, ``[OTHER]``, ``[PATHS ...]``."""
        name = self.name.upper()
        shapes = {"?": f"[{name}]", "*": f"[{name} ...]", "...": f"-- {name} ..."}
        return shapes.get(self.count or "", name)


_MODULE = Argument(
    "module",
    "a GPU module (.so or .dll), or a cached module's key or its beginning; by default our own "
    "kernels, from the cache or built for this GPU",
    "?",
)

_LLAMAFILE = Argument("llamafile", "a llamafile, or llamafile's own folder for a release")

#: Command -> its arguments.
ARGUMENTS: Mapping[str, tuple[Argument, ...]] = {
    "inspect": (
        Argument("file", "a GPU module: .so or .dll"),
        Argument("other", "another one: show what changed from the first to this", "?"),
    ),
    "verify": (_MODULE,),
    "bench": (_MODULE,),
    "install": (_LLAMAFILE,),
    "embed": (
        Argument("llamafile", "a llamafile"),
        Argument(
            "module",
            "a GPU module (.so or .dll), or a cached module's key or its beginning; with --remove "
            "the name of the one to take out, which may be left open where only one is inside",
            "?",
        ),
    ),
    "rollback": (_LLAMAFILE,),
    "status": (
        Argument(
            "paths",
            "llamafiles, or folders of llamafile's; by default those in the working folder and "
            "in ~/.llamafile",
            "*",
        ),
    ),
    "env": (
        Argument(
            "module",
            "a GPU module (.so or .dll), or a cached module's key or its beginning; by default "
            "one for the GPUs that AMD's own binaries serve",
            "?",
        ),
    ),
    "run": (Argument("program", "the program, and its arguments", "..."),),
    "advise": (Argument("model", "a GGUF file, or a llamafile with a model inside", "?"),),
    "cache": (
        Argument("action", "what to do", None, ("list", "path", "verify", "prune", "clear")),
        Argument("key", "of path: an entry's key or its beginning", "?"),
    ),
}
