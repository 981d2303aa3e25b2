"""``python -m llamabuild`` and the ``llamabuild`` command."""

from __future__ import annotations

import codecs
import os
import sys
from contextlib import suppress

from llamabuild import replay

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code."""
    _ready_streams()
    try:
        return _answer(sys.argv[1:] if argv is None else list(argv))
    except KeyboardInterrupt:  # while there was nothing yet to take back
        sys.stderr.write("error: interrupted; nothing was left behind\n")
        return 130


def _answer(words: list[str]) -> int:
    answer = replay.recall(words, os.environ)
    if answer is not None:
        stdout, stderr = answer
        with suppress(OSError):  # what is wrong with stdout is said on the usual way
            sys.stdout.write(stdout)
            sys.stdout.flush()
            sys.stderr.write(stderr)
            return 0
    from llamabuild import cli

    return cli.main(words)


def _ready_streams() -> None:
    """Let every name be printed, and whoever closed a stream have it closed."""
    codecs.register_error("llamabuild", _printable)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:  # else the next file that is opened would take its number
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))
        elif mode == "w" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="llamabuild")


def _printable(error: UnicodeError) -> tuple[str | bytes, int]:
    """Print the octets of a path as they are, and what the stream's encoding lacks as an escape."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.backslashreplace_errors(error)


if __name__ == "__main__":
    sys.exit(main())
