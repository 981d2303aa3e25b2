"""``llamabuild detect``."""

from __future__ import annotations

from dataclasses import asdict

from llamabuild import pipeline
from llamabuild.cli.commands.call import Call, document, say, show

__all__ = ["detect"]

#: What the document says of a GPU.
_SHOWN = ("vendor", "index", "name", "arch", "memory_bytes", "driver", "found_via")


def detect(call: Call) -> int:
    detection = pipeline.detect(call.environ)
    if call.request.json:
        found = {
            "gpus": [
                {name: value for name, value in asdict(gpu).items() if name in _SHOWN}
                for gpu in detection.gpus
            ],
            "problems": [asdict(problem) for problem in detection.problems],
        }
        show(document(found))
        return 0
    for gpu in detection.gpus:
        memory = f", {gpu.memory_bytes / 2**30:.0f} GiB" if gpu.memory_bytes else ""
        memory = ", integrated" if gpu.integrated else memory
        driver = f", driver {gpu.driver}" if gpu.driver else ""
        show(f"{gpu.index}: {gpu.name}, {gpu.arch}{memory}{driver}\n")
    for problem in detection.problems:
        say(call, f"{problem.message}\n" + (f"  try: {problem.hint}\n" if problem.hint else ""))
    return 0
