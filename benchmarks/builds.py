"""One cold build by llamabuild beside the one nvcc command that a user would run instead.

    python benchmarks/builds.py --source some.llamafile --arch 90
    python benchmarks/builds.py --source some.llamafile --arch 50,60,70,75,80,90 --toolkit 11.8

The nvcc command has the architectures, definitions and flags of llamafile's own ``cuda.sh``: the
plan's, with the script's host flags (``--host-flags``; ``-fPIC -O2`` since 0.8.5, before that
``-fPIC -O3 -march=native -mtune=native``). Both compile and link the same file into an empty
folder; the ratio is llamabuild's wall time over nvcc's, configuration, inspection and publication
included.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import llamabuild
from llamabuild import run
from llamabuild.engine import driver_stub
from llamabuild.planning import Plan
from llamabuild.toolchain import compiler_environment


def main() -> None:
    """Run both and print what they took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", required=True)
    parser.add_argument("--arch", required=True)
    parser.add_argument("--toolkit")
    parser.add_argument("--host-flags", default="-fPIC -O2")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--jobs", help="llamabuild's own --jobs")
    parser.add_argument(
        "--at-once",
        action="store_true",
        help="run both side by side, where cores are many and time is short: nvcc uses one core, "
        "and llamabuild's time is the worse for it",
    )
    options = parser.parse_args()
    common = ["--source", options.source, "--arch", options.arch]
    toolkit = {"toolkit": options.toolkit} if options.toolkit else {}
    common += [f"--{name}={value}" for name, value in toolkit.items()]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (plan,) = llamabuild.plan(
            options.arch, options.source, cache_dir=str(folder / "cache"), **toolkit
        )
        jobs = ["--jobs", options.jobs] if options.jobs else []
        for _ in range(options.rounds):
            with ThreadPoolExecutor(2 if options.at_once else 1) as pool:
                nvcc = pool.submit(_nvcc, plan, folder, options.host_flags.split())
                build = pool.submit(_cold_build, [*common, *jobs], folder)
                theirs, ours = nvcc.result(), build.result()
            result = {
                "source": plan.source.version or plan.source.kind,
                "archs": [str(arch) for arch in plan.archs],
                "toolkit": plan.toolkit.version,
                "cores": len(os.sched_getaffinity(0)),
                "nvcc_seconds": round(theirs, 1),
                "llamabuild_seconds": round(ours, 1),
                "ratio": round(ours / theirs, 3),
            }
            print(json.dumps(result), flush=True)


def _cold_build(arguments: list[str], folder: Path) -> float:
    """Seconds of wall time that llamabuild takes, as a whole process."""
    began = time.monotonic()
    done = run.capture(
        [
            *(sys.executable, "-m", "llamabuild", *arguments),
            *("--rebuild", "-q", "--cache-dir", folder / "cache"),
        ],
        env=os.environ,
        timeout=7200,
    )
    return _ended("llamabuild", done, began)


def _nvcc(plan: Plan, folder: Path, host_flags: list[str]) -> float:
    """Seconds of wall time that the one command takes."""
    toolkit, compiler = plan.toolkit, plan.host_compiler
    environment = compiler_environment(toolkit, compiler, os.environ)
    work = folder / "nvcc"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(plan.source.root, work)
    stub = toolkit.driver_stub or driver_stub.build(
        work / "driver",
        include_dir=toolkit.include_dir,
        compiler=compiler.cc,
        environment=environment,
    )
    began = time.monotonic()
    done = run.capture(
        [
            toolkit.nvcc,
            *("--shared", "-ccbin", compiler.path),
            *plan.nvcc_flags,
            *("--forward-unknown-to-host-compiler", "--compiler-options", " ".join(host_flags)),
            *(f"-D{define}" for define in plan.defines),
            *("-o", work / "ggml-cuda.so", "ggml-cuda.cu", f"-L{stub.parent}", "-lcuda"),
        ],
        env=environment,
        cwd=work,
        timeout=7200,
    )
    return _ended("nvcc", done, began)


def _ended(who: str, done: run.Completed, began: float) -> float:
    """Say how long it took as soon as it is known, for whom the other takes too long."""
    if done.returncode:
        sys.exit(f"{who} failed:\n{done.text}")
    seconds = time.monotonic() - began
    print(f"{who}: {seconds:.1f} s", file=sys.stderr, flush=True)
    return seconds


if __name__ == "__main__":
    main()
