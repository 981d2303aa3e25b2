"""The main job on a source of our own, with every CUDA toolkit of the machine."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import llamabuild
from llamabuild import inspect, run
from llamabuild.arch import CudaArch
from llamabuild.engine import driver_stub
from llamabuild.errors import CompilationError, ToolchainError
from llamabuild.memo import Memo
from llamabuild.toolchain import (
    Toolkit,
    compiler_environment,
    find_cuda,
    find_host_compiler,
)

pytestmark = pytest.mark.nvcc

CLASSIC = Path(__file__).parent / "data" / "classic"
TREE = Path(__file__).parent / "data" / "tree"
ENVIRON = dict(os.environ)


def command(*words: str | Path, cache: Path, timeout: float = 600) -> run.Completed:
    """The command line, as a user's shell would start it."""
    return run.capture(
        [sys.executable, "-m", "llamabuild", *words, "--cache-dir", cache],
        env=ENVIRON,
        timeout=timeout,
    )


def document(*words: str | Path, cache: Path) -> Any:
    done = command(*words, "--json", cache=cache)
    assert done.returncode == 0, done.text
    return json.loads(done.stdout)


@pytest.fixture(scope="session")
def toolkits(need: Any) -> tuple[Toolkit, ...]:
    found = find_cuda(ENVIRON, memo=Memo(None)).toolkits
    need(found, "a CUDA toolkit")
    return found


@pytest.fixture(scope="session")
def toolkit(toolkits: tuple[Toolkit, ...]) -> Toolkit:
    """The newest one."""
    return toolkits[0]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder of the user's, with a name that shells and build tools stumble over."""
    folder = tmp_path / 'it\'s a $HOME of "sources" é'
    shutil.copytree(CLASSIC, folder)
    return folder


def test_every_toolkit_builds_exactly_what_was_asked_for(
    toolkits: tuple[Toolkit, ...], source: Path, tmp_path: Path
) -> None:
    for found in toolkits:
        archs = [str(found.real[0]), str(found.real[-1]), str(found.virtual[-1])]
        (artifact,) = document(
            *("--source", source, "--arch", ",".join(archs)),
            *("--toolkit", str(found.root)),
            cache=tmp_path / "cache",
        )["artifacts"]
        assert sorted(artifact["archs"]) == sorted(set(archs))
        module = inspect.read_module(Path(artifact["path"]))
        assert sorted(module.labels) == sorted(set(archs))
        assert {"ggml_cuda_link", "ggml_backend_cuda_init"} <= set(module.exported)
        assert "libcuda.so.1" in module.needed
        assert not any(name.startswith(("libstdc++", "libcudart")) for name in module.needed)
        assert artifact["toolkit"]["version"] == found.version


def test_the_same_command_again_starts_no_compiler(
    toolkit: Toolkit, source: Path, tmp_path: Path
) -> None:
    words = ["--source", str(source), "--arch", str(toolkit.real[0])]
    first = command(*words, cache=tmp_path)
    assert first.returncode == 0, first.text
    for _ in range(2):  # by the store, then by the record of the command
        again = run.capture(
            [sys.executable, "-m", "llamabuild", *words, "--cache-dir", tmp_path],
            env={**ENVIRON, "PATH": os.environ["PATH"]},
            timeout=60,
        )
        assert again.stdout == first.stdout
        assert "from the cache" in again.stderr
    (source / "ggml-cuda.cu").write_text((source / "ggml-cuda.cu").read_text() + "\n// new\n")
    changed = command(*words, cache=tmp_path)
    assert changed.returncode == 0, changed.text
    assert changed.stdout != first.stdout


def test_the_same_plan_gives_the_same_bytes_anywhere(
    toolkit: Toolkit, source: Path, tmp_path: Path
) -> None:
    digests, keys = set(), set()
    for name, origin in (("one", CLASSIC), ('an "other\\; $cache', source)):
        (artifact,) = document(
            *("--source", origin, "--arch", str(toolkit.real[0])), cache=tmp_path / name
        )["artifacts"]
        digests.add(artifact["sha256"])
        keys.add(artifact["key"])
        assert str(tmp_path).encode() not in Path(artifact["path"]).read_bytes()
    assert len(keys) == 1
    assert len(digests) == 1


def test_the_graph_gives_what_plain_nvcc_gives(
    toolkits: tuple[Toolkit, ...], tmp_path: Path
) -> None:
    """Kernel by kernel: names and sizes, for each architecture."""
    for number, found in enumerate(toolkits):
        archs = (found.real[0], found.real[-1])
        listed = ",".join(map(str, archs))
        (built,) = llamabuild.build(
            listed, str(CLASSIC), toolkit=str(found.root), cache_dir=str(tmp_path / "cache")
        )
        plain = plain_nvcc(found, archs, built.plan.defines, tmp_path / f"plain{number}")
        assert kernels(built.path) == kernels(plain)


def plain_nvcc(
    toolkit: Toolkit, archs: tuple[CudaArch, ...], defines: tuple[str, ...], folder: Path
) -> Path:
    compiler = find_host_compiler(toolkit, ENVIRON, memo=Memo(None))
    environment = compiler_environment(toolkit, compiler, ENVIRON)
    shutil.copytree(CLASSIC, folder)
    stub = toolkit.driver_stub or driver_stub.build(
        folder, include_dir=toolkit.include_dir, compiler=compiler.cc, environment=environment
    )
    done = run.capture(
        [
            *(toolkit.nvcc, "-ccbin", compiler.path, "--shared", "-Xcompiler=-fPIC,-O2"),
            *(f"-gencode={arch.gencode()}" for arch in archs),
            *(f"-D{define}" for define in defines),
            *("-use_fast_math", "-o", "plain.so", "ggml-cuda.cu", stub),
        ],
        env=environment,
        cwd=folder,
        timeout=300,
    )
    assert done.returncode == 0, done.text
    return folder / "plain.so"


def kernels(path: Path) -> dict[str, list[str]]:
    """The kernels of each architecture, without the name that a file-local symbol is given."""
    local = re.compile(r"\d+_GLOBAL__N__\w+?(?=\d+vec_dot)|_INTERNAL_\w{8}_\d+_\w+?_cu_\w+?_\d+")
    found: dict[str, list[str]] = {}
    for entry in inspect.read_module(path).entries:
        names = [local.sub("LOCAL", kernel.name) for kernel in entry.kernels or ()]
        found.setdefault(entry.label, []).extend(sorted(names))
    return found


@pytest.mark.parametrize(
    ("flavor", "name", "export"),
    [
        ("self-contained", "ggml-cuda.so", "ggml_backend_cuda_init"),
        ("backend-dl", "libggml-cuda.so", "ggml_backend_init"),
    ],
)
def test_a_tree_of_many_files(
    toolkits: tuple[Toolkit, ...], need: Any, tmp_path: Path, flavor: str, name: str, export: str
) -> None:
    """By our own project and by the tree's, from and in folders with odd names too."""
    need(any(found.cublas for found in toolkits), "a CUDA toolkit with cuBLAS")
    found = next(found for found in toolkits if found.cublas)
    keys = set()
    for folder in ("one", "another one's"):
        tree = tmp_path / folder / "ggml"
        shutil.copytree(TREE, tree)
        (built,) = llamabuild.build(
            f"{found.real[0]},{found.virtual[-1]}",
            str(tree),
            flavor=flavor,
            force_mmq=True,
            toolkit=str(found.root),
            cache_dir=str(tmp_path / folder / "cache"),
        )
        module = inspect.read_module(built.path)
        assert built.path.name == name
        assert module.labels == (str(found.real[0]), str(found.virtual[-1]))
        assert {export, "llamabuild_test_forced_mmq"} <= set(module.exported)
        assert any(library.startswith("libcublas.so") for library in module.needed)
        assert not any(library.startswith(("libcudart", "libstdc++")) for library in module.needed)
        assert ("ggml_nelements" in module.exported) == (flavor == "self-contained")
        assert str(tmp_path).encode() not in built.path.read_bytes()
        keys.add(built.artifact.key)
    assert len(keys) == 1


def test_force_mmq_reaches_the_compiler_and_the_key(
    toolkit: Toolkit, source: Path, tmp_path: Path
) -> None:
    text = (source / "ggml-cuda.cu").read_text()
    assert "GGML_CUDA_FORCE_MMQ" in text
    common = ["--source", str(source), "--arch", str(toolkit.real[0])]
    (usual,) = document(*common, cache=tmp_path)["artifacts"]
    (forced,) = document(*common, "--force-mmq", cache=tmp_path)["artifacts"]
    assert usual["key"] != forced["key"]
    exported = inspect.read_module(Path(forced["path"])).exported
    assert "llamabuild_test_forced_mmq" in exported
    assert "llamabuild_test_forced_mmq" not in inspect.read_module(Path(usual["path"])).exported


def test_a_compilers_first_error_is_the_message(
    toolkit: Toolkit, source: Path, tmp_path: Path
) -> None:
    (source / "ggml-cuda.cu").write_text(
        (source / "ggml-cuda.cu").read_text() + "\nint broken(void) { return nowhere; }\n"
    )
    with pytest.raises(CompilationError) as caught:
        llamabuild.build(str(toolkit.real[0]), str(source), cache_dir=str(tmp_path / "cache"))
    assert '"nowhere" is undefined' in caught.value.message
    assert "command: " in caught.value.message
    (log,) = re.findall(r"log: (.*)", caught.value.message)
    assert '"nowhere" is undefined' in Path(log).read_text()
    done = command("cache", "list", "--json", cache=tmp_path / "cache")
    assert json.loads(done.stdout)["entries"] == []
    assert not list((tmp_path / "cache" / "v1" / "staging").iterdir())


def test_a_module_without_a_required_symbol_is_not_published(
    toolkit: Toolkit, source: Path, tmp_path: Path
) -> None:
    header = (source / "ggml-cuda.h").read_text()
    hidden = header.replace(
        "GGML_CALL void *ggml_backend_cuda_init",
        '__attribute__((visibility("hidden"))) GGML_CALL void *ggml_backend_cuda_init',
    )
    assert hidden != header
    (source / "ggml-cuda.h").write_text(hidden)
    done = command(*("--source", source, "--arch", str(toolkit.real[0])), cache=tmp_path / "cache")
    assert done.returncode == 7, done.text
    assert "does not export ggml_backend_cuda_init" in done.stderr
    assert done.stdout == ""
    assert (
        json.loads(command("cache", "list", "--json", cache=tmp_path / "cache").stdout)["entries"]
        == []
    )


@pytest.mark.skipif(sys.platform == "win32", reason="mounts a small disk")
def test_a_full_disk_is_named_and_nothing_is_left_on_it(
    toolkit: Toolkit, need: Any, tmp_path: Path
) -> None:
    """Three megabytes hold the source and the probes, but not what the preprocessor writes."""
    need(os.geteuid() == 0, "root, to mount a small disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(tmp_path)]
    need(run.capture(mount, env=ENVIRON, timeout=60).returncode == 0, "a small disk")
    try:
        done = command("--source", CLASSIC, "--arch", str(toolkit.real[0]), cache=tmp_path / "c")
        assert done.returncode == 8, done.text
        assert "No space left on device" in done.stderr
        assert "--cache-dir" in done.stderr
        assert not list((tmp_path / "c" / "v1" / "staging").iterdir())
    finally:
        run.capture(["umount", tmp_path], env=ENVIRON, timeout=60)


def test_two_builders_of_one_key_compile_once(
    toolkit: Toolkit, source: Path, tmp_path: Path
) -> None:
    import concurrent.futures

    words = ["--source", str(source), "--arch", str(toolkit.real[0]), "--json"]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda _: command(*words, cache=tmp_path / "cache"), range(2)))
    assert [one.returncode for one in done] == [0, 0], done
    artifacts = [json.loads(one.stdout)["artifacts"][0] for one in done]
    assert artifacts[0]["path"] == artifacts[1]["path"]
    assert sorted(artifact["cached"] for artifact in artifacts) == [False, True]


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_build_that_is_ended_leaves_nothing_in_the_way(
    toolkit: Toolkit, source: Path, tmp_path: Path, how: signal.Signals
) -> None:
    """Ctrl-C and SIGTERM also leave no compiler running; after SIGKILL the next build cleans up."""
    many = ",".join(str(arch) for arch in toolkit.real if not arch.suffix)
    words = ["--source", str(source), "--arch", many]
    log = tmp_path / "log"
    child = os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", "llamabuild", *words, "--cache-dir", str(tmp_path / "cache")],
        ENVIRON,
        file_actions=[(os.POSIX_SPAWN_OPEN, 2, str(log), os.O_WRONLY | os.O_CREAT, 0o600)],
        setpgroup=0,
    )
    wait_until(lambda: log.exists() and "cicc" in log.read_text())
    os.kill(child, how)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code == (-how if how == signal.SIGKILL else 130)
    if how != signal.SIGKILL:
        assert not working_in(tmp_path), "a compiler outlived the interrupted build"
        assert not list((tmp_path / "cache" / "v1" / "staging").iterdir())
    else:
        wait_until(lambda: not working_in(tmp_path))
    again = command(*words, cache=tmp_path / "cache")
    assert again.returncode == 0, again.text
    assert not list((tmp_path / "cache" / "v1" / "staging").iterdir())


def working_in(folder: Path) -> list[str]:
    """Processes whose working folder is below ``folder``."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink().is_relative_to(folder):
                found.append((process / "cmdline").read_text())
        except OSError:
            continue
    return found


def wait_until(condition: Any, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def test_two_toolkits_side_by_side(
    toolkits: tuple[Toolkit, ...], need: Any, tmp_path: Path
) -> None:
    """The one that can is used; where each can a part, ``--per-arch`` uses both."""
    old = [found for found in toolkits if CudaArch(61) in found.real]
    new = [found for found in toolkits if CudaArch(120) in found.real]
    need(
        bool(old and new and not set(old) & set(new)), "two toolkits, one for 6.1 and one for 12.0"
    )
    (both,) = document("plan", "--source", CLASSIC, "--arch", "61,90", cache=tmp_path)["plans"]
    assert both["toolkit"]["version"] == old[0].version
    with pytest.raises(ToolchainError) as caught:
        llamabuild.plan("61,120", str(CLASSIC), cache_dir=str(tmp_path))
    assert "no installed toolkit" in caught.value.message
    assert "--per-arch" in caught.value.hint
    built = document("--source", CLASSIC, "--arch", "61,120", "--per-arch", cache=tmp_path)[
        "artifacts"
    ]
    assert [artifact["archs"] for artifact in built] == [["61-real"], ["120-real"]]
    assert [artifact["toolkit"]["version"] for artifact in built] == [
        old[0].version,
        new[0].version,
    ]


def test_output_gets_a_copy(toolkit: Toolkit, source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out dir"
    done = command(
        *("--source", source, "--arch", str(toolkit.real[0]), "-q"),
        *("--output", f"{target}/"),
        cache=tmp_path / "cache",
    )
    assert done.returncode == 0, done.text
    assert done.stderr == ""
    cached = Path(done.stdout.strip())
    assert (target / "ggml-cuda.so").read_bytes() == cached.read_bytes()
