"""The rooms of the package are in layers: each imports only from the layers below."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import llamabuild

PACKAGE = Path(llamabuild.__file__).parent

LAYERS = (
    {"errors", "events", "run", "memo", "locks", "looking", "shipped"},
    {"settings", "arch"},
    {"probe", "toolchain", "source"},
    {"planning"},
    {"advise", "deliver", "engine", "inspect", "store", "verify"},
    {"pipeline", "doctor", "replay"},
    {"cli"},
    {"__main__", "__init__"},  # the two doors
)
LAYER_OF = {room: number for number, rooms in enumerate(LAYERS) for room in rooms}
MODULES = sorted(PACKAGE.rglob("*.py"))


def room_of(module: Path) -> str:
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(module: Path) -> Iterator[str]:
    """The rooms that a module imports, wherever in the module it does so."""
    package = ["llamabuild", *module.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(module.read_text("utf-8"), str(module))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{origin}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            first, _, rest = name.partition(".")
            if first == "llamabuild" and rest != "__version__":
                yield rest.partition(".")[0] or "__init__"


def complaints(module: Path) -> list[str]:
    room = room_of(module)
    return [
        f"{room} (layer {LAYER_OF[room]}) imports {other} (layer {LAYER_OF[other]})"
        for other in imported_rooms(module)
        if other != room and LAYER_OF[other] >= LAYER_OF[room]
    ]


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_below(module: Path) -> None:
    assert room_of(module) in LAYER_OF, "a new room: say in LAYERS where it belongs"
    assert complaints(module) == []


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("errors.py", "from llamabuild import run"),
        ("arch/parsing.py", "import llamabuild.probe"),
        ("probe/nvidia.py", "from llamabuild.toolchain import find_cuda"),
        ("probe/nvidia.py", "from ..toolchain.cuda import find_cuda"),
        ("probe/nvidia.py", "from .. import toolchain"),
        ("planning.py", "from llamabuild.engine.cmake import Project"),
        ("store/cache.py", "def late():\n    import llamabuild.inspect.elf"),
        ("pipeline.py", "import llamabuild"),
    ],
)
def test_what_is_forbidden_is_noticed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str, line: str
) -> None:
    monkeypatch.setattr("tests.unit.test_layers.PACKAGE", tmp_path)
    module = tmp_path / place
    module.parent.mkdir(exist_ok=True)
    module.write_text(line)
    assert len(complaints(module)) == 1


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("arch/parsing.py", "from llamabuild.arch import names"),
        ("arch/parsing.py", "from . import names"),
        ("probe/nvidia.py", "from llamabuild import __version__, run\nimport os.path, json"),
        ("planning.py", "from llamabuild import arch, source"),
        ("cli/main.py", "from llamabuild.pipeline import build"),
        ("__init__.py", "from llamabuild import pipeline"),
    ],
)
def test_what_is_allowed_passes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str, line: str
) -> None:
    monkeypatch.setattr("tests.unit.test_layers.PACKAGE", tmp_path)
    module = tmp_path / place
    module.parent.mkdir(exist_ok=True)
    module.write_text(line)
    assert complaints(module) == []
