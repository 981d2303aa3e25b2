"""``python -m llamabuild`` and the ``llamabuild`` command."""

from __future__ import annotations

import os
import sys

from llamabuild import replay

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a path need not be valid UTF-8 to be printed
            stream.reconfigure(errors="surrogateescape")
    answer = replay.recall(words, os.environ)
    if answer is not None:
        stdout, stderr = answer
        sys.stderr.write(stderr)
        sys.stdout.write(stdout)
        return 0
    from llamabuild import cli

    return cli.main(words)


if __name__ == "__main__":
    sys.exit(main())
