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
from pathlib import Path
from typing import Any

from llamabuild import run


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
    options = parser.parse_args()
    common = ["--source", options.source, "--arch", options.arch]
    if options.toolkit:
        common += ["--toolkit", options.toolkit]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plan = _llamabuild(["plan", *common, "--json"], folder)["plans"][0]
        jobs = ["--jobs", options.jobs] if options.jobs else []
        for _ in range(options.rounds):
            theirs = _nvcc(plan, folder, options.host_flags.split())
            began = time.monotonic()
            _llamabuild(["build", *common, *jobs, "--rebuild", "--json", "-q"], folder)
            ours = time.monotonic() - began
            result = {
                "source": plan["source"]["version"] or plan["source"]["kind"],
                "archs": plan["archs"],
                "toolkit": plan["toolkit"]["version"],
                "cores": len(os.sched_getaffinity(0)),
                "nvcc_seconds": round(theirs, 1),
                "llamabuild_seconds": round(ours, 1),
                "ratio": round(ours / theirs, 3),
            }
            print(json.dumps(result), flush=True)


def _llamabuild(arguments: list[str], folder: Path) -> Any:
    done = run.capture(
        [sys.executable, "-m", "llamabuild", *arguments, "--cache-dir", folder / "cache"],
        env=os.environ,
        timeout=7200,
    )
    if done.returncode:
        sys.exit(f"llamabuild {' '.join(arguments)} failed:\n{done.text}")
    return json.loads(done.stdout)


def _nvcc(plan: dict[str, Any], folder: Path, host_flags: list[str]) -> float:
    """Seconds of wall time that the one command takes."""
    from llamabuild.engine import driver_stub
    from llamabuild.memo import Memo
    from llamabuild.toolchain import compiler_environment, find_cuda, find_host_compiler

    environ = dict(os.environ)
    search = find_cuda(environ, explicit=plan["toolkit"]["path"], memo=Memo(None))
    toolkit = search.toolkits[0]
    compiler = find_host_compiler(toolkit, environ, memo=Memo(None))
    environment = compiler_environment(toolkit, compiler, environ)
    work = folder / "nvcc"
    shutil.rmtree(work, ignore_errors=True)
    (source,) = (path.parent for path in (folder / "cache").rglob("ggml-cuda.cu"))
    shutil.copytree(source, work)
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
            *(
                flag
                for flag in plan["flags"]
                if flag.startswith(("-gencode", "arch=", "--use_fast_math"))
            ),
            *("--forward-unknown-to-host-compiler", "--compiler-options", " ".join(host_flags)),
            *(f"-D{define}" for define in plan["defines"]),
            *("-o", work / "ggml-cuda.so", "ggml-cuda.cu", f"-L{stub.parent}", "-lcuda"),
        ],
        env=environment,
        cwd=work,
        timeout=7200,
    )
    if done.returncode:
        sys.exit(f"nvcc failed:\n{done.text}")
    return time.monotonic() - began


if __name__ == "__main__":
    main()
