"""What a warm start and an import cost, as ratios of what Python itself costs.

    python benchmarks/startup.py --source some.llamafile --arch 90

Every command is a whole process; the commands take turns, and medians are compared, so that a
noisy machine disturbs all of them alike. The module is built first if the cache does not have it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time

from llamabuild import run


def main() -> None:
    """Time all commands in turn and print the medians and their ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", required=True)
    parser.add_argument("--arch", required=True)
    parser.add_argument("--rounds", type=int, default=25)
    options = parser.parse_args()
    hit = [*("-m", "llamabuild", "-q"), *("--source", options.source, "--arch", options.arch)]
    commands = {
        "pass": ["-c", "pass"],
        "stdlib": ["-c", "import argparse, json, pathlib"],
        "import": ["-c", "import llamabuild"],
        "hit": hit,
    }
    _seconds(hit)
    _seconds(hit)  # the first answer from the cache leaves a record for the next
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(options.rounds):
        for name, command in commands.items():
            times[name].append(_seconds(command))
    medians = {name: statistics.median(values) for name, values in times.items()}
    result = {
        "milliseconds": {name: round(value * 1000, 1) for name, value in medians.items()},
        "warm hit / python -c pass": round(medians["hit"] / medians["pass"], 2),
        "import llamabuild / import argparse, json, pathlib": round(
            medians["import"] / medians["stdlib"], 2
        ),
    }
    print(json.dumps(result, indent=2))


def _seconds(arguments: list[str]) -> float:
    began = time.perf_counter()
    done = run.capture([sys.executable, *arguments], env=os.environ, timeout=3600)
    if done.returncode:
        sys.exit(f"{arguments} failed:\n{done.text}")
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
