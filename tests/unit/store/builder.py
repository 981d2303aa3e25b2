"""A builder as a process: ``builder.py ROOT KEY MARKS [hang|SIZE]``.

It takes the same steps as the pipeline, with a compiler that writes SIZE bytes in two halves.
Between the halves it leaves the mark ``halfway`` and, with ``hang``, waits until ``go`` is there.
It prints the path of the module, and on stderr what it has to tell.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from llamabuild.events import Event, Note
from llamabuild.store import Store


def tell(event: Event) -> None:
    assert isinstance(event, Note)
    print(event.text, file=sys.stderr, flush=True)


def compile_slowly(path: Path, marks: Path, *, hang: bool, size: int) -> None:
    (marks / f"compiled.{os.getpid()}").touch()
    with path.open("wb") as module:
        module.write(b"x" * (size // 2))
        module.flush()
        (marks / "halfway").touch()
        while hang and not (marks / "go").exists():
            time.sleep(0.01)
        module.write(b"x" * (size - size // 2))


def main() -> None:
    root, key, marks, *words = sys.argv[1:]
    hang = "hang" in words
    size = int(words[0]) if words and not hang else 100_000
    store = Store(Path(root))
    artifact = store.lookup(key, tell)
    if artifact is None:
        with store.claim(key, tell) as staging:
            artifact = store.lookup(key, tell)
            if artifact is None:
                staging.log.write_text("compiling\n")
                compile_slowly(staging.entry / "ggml-cuda.so", Path(marks), hang=hang, size=size)
                artifact = store.publish(staging, "ggml-cuda.so", {"archs": ["90-real"]})
    print(artifact.path)


if __name__ == "__main__":
    main()
