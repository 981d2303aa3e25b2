"""What can be said to llamabuild: commands, arguments and options, each declared once.

:func:`resolve` turns what a user gave into a :class:`Request` that remembers where each value came
from, so that a message can say "61, from CUDAARCHS".
"""

from __future__ import annotations

from llamabuild.settings.commands import ARGUMENTS, COMMANDS, Argument
from llamabuild.settings.options import OPTIONS, Option, Options, Request
from llamabuild.settings.resolving import resolve

__all__ = [
    "ARGUMENTS",
    "COMMANDS",
    "OPTIONS",
    "Argument",
    "Option",
    "Options",
    "Request",
    "resolve",
]
