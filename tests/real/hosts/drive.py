"""Compile a stand-in host against the headers of a source tree, and run modules in it.

By hand, one line of JSON per module::

    python tests/real/hosts/drive.py --release 0.8.1 --headers ~/.llamafile ggml-cuda.so
    python tests/real/hosts/drive.py --release 0.9.3 --headers lf/llama.cpp,lf ggml-cuda.so
    python tests/real/hosts/drive.py --headers llama.cpp/ggml/include ggml-cuda.so
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llamabuild import inspect
from llamabuild import run as processes
from llamabuild.source import SourceTree

__all__ = [
    "Case",
    "HostError",
    "Module",
    "Outcome",
    "classic_defines",
    "compile_c",
    "compile_classic",
    "compile_ggml",
    "compile_host",
    "looked_up",
    "run",
    "try_without_gpu",
]

HERE = Path(__file__).resolve().parent

GAVE_UP = 4  # host.h
TIMED_OUT = 124  # what timeout(1) answers
NO_DEVICE = 100  # cuda.h: CUDA_ERROR_NO_DEVICE

#: What the loader of a classic llamafile looks up, in its order, and the first release that does
#: (dlsym in llamafile/cuda.c of every tag).
LOOKED_UP = (
    ("ggml_cuda_link", (0, 7)),
    ("ggml_backend_cuda_host_buffer_type", (0, 7)),
    ("ggml_backend_cuda_buffer_type", (0, 7)),
    ("ggml_backend_cuda_init", (0, 7)),
    ("ggml_backend_cuda_split_buffer_type", (0, 7)),
    ("ggml_backend_cuda_reg_devices", (0, 7)),
    ("ggml_backend_cuda_get_device_properties", (0, 9, 2)),
    ("ggml_backend_cuda_get_device_memory", (0, 7)),
    ("ggml_backend_cuda_get_device_count", (0, 7)),
    ("ggml_backend_cuda_unregister_host_buffer", (0, 7)),
    ("ggml_backend_cuda_register_host_buffer", (0, 8, 1)),
    ("ggml_backend_cuda_get_device_description", (0, 8, 15)),
)
LOOKED_UP_BY_0_6_2 = (
    "ggml_cuda_link",
    "ggml_init_cublas",
    "ggml_cublas_loaded",
    "ggml_cuda_host_free",
    "ggml_cuda_host_malloc",
    "ggml_cuda_can_mul_mat",
    "ggml_cuda_compute_forward",
    "ggml_cuda_get_device_count",
    "ggml_cuda_get_device_description",
    "ggml_backend_cuda_host_buffer_type",
    "ggml_backend_cuda_buffer_type",
    "ggml_backend_cuda_init",
    "ggml_backend_cuda_get_device_count",
    "ggml_backend_cuda_split_buffer_type",
    "ggml_backend_cuda_reg_devices",
    "ggml_backend_cuda_get_device_memory",
)


class HostError(Exception):
    """A host cannot be compiled: no compiler, not the headers it needs, or a fault of ours."""


@dataclass(frozen=True)
class Module:
    """A finished module, and the headers of what it was built from.

    ``release``: the llamafile whose loader is played; None: the module is self-contained.
    """

    path: Path
    headers: tuple[Path, ...]
    release: str | None

    @classmethod
    def of(cls, path: Path, tree: SourceTree) -> Module:
        """The module at ``path``, which was built from ``tree``."""
        # Where releases share a source (0.9.2-0.9.3), any of them would take the module.
        release = (tree.version or "").split("-")[-1] if tree.layout == "classic" else None
        return cls(path, tuple(tree.root / folder for folder in tree.includes), release)


@dataclass(frozen=True)
class Case:
    """One product: an m x k matrix of ``type`` times k x n.

    ``error``: relative, in the Euclidean norm. ``worst``: of one value, in units of what a sum of
    such terms comes to. None: not a number.
    """

    type: str
    m: int
    n: int
    k: int
    error: float | None
    worst: float | None
    right: bool


@dataclass(frozen=True)
class Outcome:
    """How a host ended.

    ``exit_code``: 0 all right; 1 a wrong result; 2 the module cannot be loaded or lacks a symbol;
    3 the module says that there is no device; 4 the module gave up (it called ``exit``); 124 it
    did not end in time; negative: the signal that killed the process.
    ``cases``: the products that were finished. ``stderr``: what the host, the module, the driver
    and kernels said, on either stream. ``crashed``: the module took the process with it.
    """

    exit_code: int
    cases: tuple[Case, ...]
    stderr: str
    crashed: bool


def looked_up(release: str) -> tuple[str, ...]:
    """The symbols without which that release of llamafile refuses a module, in its order.

    :raises HostError: a release that is not 0.6.2 to 0.9.3.
    """
    number = tuple(int(part) for part in release.split("."))
    if number == (0, 6, 2):
        return LOOKED_UP_BY_0_6_2
    if not (0, 7) <= number < (0, 10):
        raise HostError(f"no stand-in loads modules as llamafile {release} does")
    return tuple(symbol for symbol, since in LOOKED_UP if number >= since)


def compile_classic(headers: Sequence[Path], out: Path, *, release: str) -> Path:
    """Compile the host of a classic module, and return the program.

    :param headers: the folders of that release's headers: the one that a llamafile unpacks its
        sources into, or ``llama.cpp`` of a checkout and the checkout itself.
    :param release: 0.6.2 to 0.9.3; tells which symbols are looked up.
    :raises HostError: see there.
    """
    table = re.search(
        r"struct ggml_backend_api \{(.*?)\};", _header(headers, "ggml-backend-impl.h"), re.DOTALL
    )
    if not table:
        raise HostError(f"no struct ggml_backend_api in {_listed(headers)}")
    defines = {
        "API_MEMBERS": _each(re.findall(r"\(\*\s*GGML_CALL\s+(\w+)\)", table[1])),
        "REQUIRED_SYMBOLS": _each(looked_up(release)),
    }
    sources = ["classic_host.c", "host.c", "quants.c"]
    return compile_c(sources, out, headers, defines | classic_defines(headers))


def classic_defines(headers: Sequence[Path]) -> dict[str, str]:
    """What both sides of a classic release's interface must be compiled with."""
    defines = {"GGML_MULTIPLATFORM": "1"}  # the calling convention, since 0.6.1
    if re.search(r"\bvoid\s+ggml_cuda_link\b", _header(headers, "ggml-cuda.h")):
        defines["LINK_IS_VOID"] = "1"
    return defines


def compile_ggml(headers: Sequence[Path], out: Path) -> Path:
    """Compile the host of a self-contained module, and return the program.

    :param headers: the folders with the tree's ggml.h, ggml-backend.h and ggml-cuda.h.
    :raises HostError: see there.
    """
    has_reg = "ggml_backend_cuda_reg(" in _header(headers, "ggml-cuda.h")
    defines = {"HAS_REG": "1"} if has_reg else {}
    return compile_c(["ggml_host.c", "host.c", "quants.c"], out, headers, defines)


def compile_c(
    sources: Sequence[str],
    out: Path,
    headers: Sequence[Path] = (),
    defines: dict[str, str] | None = None,
    *,
    flags: Sequence[str] = (),
) -> Path:
    """Compile C files of this folder."""
    out.parent.mkdir(parents=True, exist_ok=True)
    # What would call a function in another way than its header says is no warning but an error.
    strict = ("incompatible-pointer-types", "implicit-function-declaration")
    argv = ["gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra", *(f"-Werror={w}" for w in strict)]
    argv += [*flags, "-o", str(out)]
    argv += [f"-D{name}={value}" for name, value in (defines or {}).items()]
    # For quoted names only: llamafile 0.9 has a string.h of its own beside ggml.h.
    argv += [part for folder in headers for part in ("-iquote", str(folder))]
    argv += [str(HERE / source) for source in sources]
    try:
        done = processes.capture([*argv, "-ldl", "-lm"], env=os.environ, timeout=120)
    except (processes.CannotStart, processes.TimedOut) as error:
        raise HostError(str(error)) from error
    if done.returncode:
        raise HostError(done.stderr)
    return out


def compile_host(module: Module, out: Path) -> Path:
    """Compile the host that ``module`` needs: see the two above."""
    if module.release is None:
        return compile_ggml(module.headers, out)
    return compile_classic(module.headers, out, release=module.release)


def run(
    program: Path, module: Path, timeout: float, *, library_path: Sequence[Path] = ()
) -> Outcome:
    """Run a module in its host, in a process of its own.

    :param timeout: seconds; the first product may wait for the driver to compile PTX.
    :param library_path: folders that are searched first for the libraries the module needs.
    """
    inherited = os.environ.get("LD_LIBRARY_PATH")
    folders = [*map(str, library_path), *([inherited] if inherited else [])]
    env = processes.environment(os.environ, update={"LD_LIBRARY_PATH": ":".join(folders)})
    try:
        # An absolute path: dlopen searches for a bare name.
        done = processes.capture([program, module.absolute()], env=env, timeout=timeout)
    except processes.TimedOut as error:
        return Outcome(TIMED_OUT, (), str(error), crashed=True)
    cases = tuple(Case(**json.loads(line)) for line in done.stdout.splitlines())
    crashed = done.returncode < 0 or done.returncode == GAVE_UP
    return Outcome(done.returncode, cases, done.stderr, crashed)


def try_without_gpu(module: Module, folder: Path, *, timeout: float = 120) -> Outcome:
    """Load a module where the driver knows no device: a sound one ends with exit code 3.

    :param folder: gets the host, and a driver that defines what the module needs of it.
    :raises HostError: the host cannot be compiled.
    """
    undefined = inspect.read_module(module.path).undefined
    functions = ["cuInit", *(name for name in undefined if re.match("cu[A-Z]", name))]
    folder.mkdir(parents=True, exist_ok=True)
    driver = folder / "driver.c"
    driver.write_text(
        "".join(f"int {name}(void) {{ return {NO_DEVICE}; }}\n" for name in functions)
    )
    compile_c([str(driver)], folder / "driver" / "libcuda.so.1", flags=["-shared", "-fPIC"])
    program = compile_host(module, folder / "host")
    return run(program, module.path, timeout, library_path=[folder / "driver"])


def _header(headers: Sequence[Path], name: str) -> str:
    for folder in headers:
        if (folder / name).is_file():
            return (folder / name).read_text(errors="replace")
    raise HostError(f"no {name} in {_listed(headers)}")


def _listed(headers: Sequence[Path]) -> str:
    return ", ".join(map(str, headers))


def _each(names: Sequence[str]) -> str:
    return " ".join(f"X({name})" for name in names)


def main(arguments: Sequence[str]) -> int:
    """Compile the host that the headers call for, run every module; 0 when all were right."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--headers", required=True, metavar="DIR[,DIR]")
    parser.add_argument(
        "--release", help="of llamafile, 0.6.2 to 0.9.3; without it, the module is self-contained"
    )
    parser.add_argument("--timeout", type=float, default=300, metavar="SECONDS")
    parser.add_argument("modules", nargs="+", type=Path, metavar="MODULE")
    options = parser.parse_args(arguments)
    headers = tuple(Path(part) for part in options.headers.split(","))
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "host")
        compile_host(Module(options.modules[0], headers, options.release), program)
        for module in options.modules:
            outcome = run(program, module, options.timeout)
            outcomes.append(outcome)
            line = {"module": str(module), **dataclasses.asdict(outcome)}
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()
    return int(any(outcome.exit_code for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
