"""Load a module as its user's program would, on a machine whose driver knows no device."""

from __future__ import annotations

import os
import re
from pathlib import Path

from llamabuild import inspect
from llamabuild.run import environment
from llamabuild.source import SourceTree
from llamabuild.verify import hosting
from llamabuild.verify.trial import Trial, attempt

__all__ = ["NO_DEVICE", "load_without_gpu"]

NO_DEVICE = 3  # host.h
CUDA_ERROR_NO_DEVICE = 100  # cuda.h


def load_without_gpu(module: Path, source: SourceTree, folder: Path) -> Trial:
    """Load a module that was built from ``source``: a sound one ends with NO_DEVICE.

    :param folder: gets the stand-in, and a driver that defines what the module needs of it.
    :raises CannotCompile: there is no stand-in for that source, or no compiler.
    """
    undefined = inspect.read_module(module).undefined
    functions = ["cuInit", *(name for name in undefined if re.match("cu[A-Z]", name))]
    driver = folder / "driver.c"
    driver.write_text(
        "".join(f"int {name}(void) {{ return {CUDA_ERROR_NO_DEVICE}; }}\n" for name in functions)
    )
    flags = ["-shared", "-fPIC"]
    hosting.compile_c([driver], folder / "libcuda.so.1", os.environ, flags=flags)
    program = hosting.compile_host(source, folder / "host", os.environ)
    folders = [str(folder), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    environ = environment(os.environ, update={"LD_LIBRARY_PATH": os.pathsep.join(folders)})
    return attempt([program], [str(module), "0"], environ=environ, time_limit=120)
