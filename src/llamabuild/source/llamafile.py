"""llamafile 0.6 to 0.9.3: one CUDA file with its headers, in the file itself or unpacked from it.

Which release they belong to is read off their contents, never off a name.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

from llamabuild.errors import SourceError
from llamabuild.source import scan
from llamabuild.source.model import ClassicRecipe

__all__ = [
    "DEVICE",
    "DEVICE_MEMBER",
    "Reader",
    "classic_names",
    "collect",
    "describe",
    "loader_symbols",
    "looks_classic",
    "release_number",
    "releases",
    "releases_of",
]

#: Gives the contents of a member (``llama.cpp/ggml.h``), or none if there is no such member.
Reader: TypeAlias = Callable[[str], bytes | None]

#: The one translation unit, in the folder where the loader unpacks everything.
DEVICE = "ggml-cuda.cu"
DEVICE_MEMBER = f"llama.cpp/{DEVICE}"

_WHAT_IS_NEEDED = (
    "give a llamafile 0.6 to 0.9.3; for 0.10 and later a checkout of llamafile after `make setup`"
)


def classic_names() -> tuple[str, ...]:
    """The members of a llamafile that its loader unpacks, in the loader's order."""
    return tuple(_releases()["members"])


def looks_classic(folder: Path) -> str | None:
    """``checkout`` or ``unpacked`` if the folder has the classic sources, else none."""
    if (folder / DEVICE_MEMBER).is_file() and (folder / "llamafile/tinyblas.cu").is_file():
        return "checkout"
    if (folder / DEVICE).is_file() and (folder / "tinyblas.cu").is_file():
        return "unpacked"
    return None


def releases() -> tuple[str, ...]:
    """Every release that carries its CUDA sources, the oldest first."""
    return tuple(_releases()["crc32"])


def release_number(release: str) -> tuple[int, ...]:
    """``0.8``, which is ``0.8.0`` too, as (0, 8, 0): to compare."""
    numbers = [int(part) for part in release.split(".")]
    return tuple([*numbers, 0, 0][:3])


def releases_of(checksums: Mapping[str, int]) -> tuple[str, ...]:
    """Every release that these sources can be of, by the CRC-32 that a ZIP's directory states.

    :param checksums: by name in the loader's one folder: ``ggml-cuda.cu``.
    """
    shown = {name: f"{value:08x}" for name, value in checksums.items()}
    table = _releases()["crc32"]
    same = [name for name, files in table.items() if files[DEVICE] == shown.get(DEVICE)]
    narrowed = (
        name
        for name in same
        if all(shown.get(file, crc) == crc for file, crc in table[name].items())
    )
    return tuple(narrowed) or tuple(same)


def loader_symbols(release: str) -> tuple[str, ...]:
    """What the loader of a release of :func:`releases` looks up in a module, or refuses it."""
    return tuple(
        name
        for name, (first, last) in _releases()["symbols"].items()
        if release_number(first) <= release_number(release) <= release_number(last)
    )


def collect(read: Reader, origin: str) -> dict[str, bytes]:
    """Return what the compiler reads, by name in the loader's one folder and in its order.

    Everything else that may lie there (old modules, files of other releases) is left alone.

    :raises SourceError: one of the files is missing.
    """
    members = {Path(member).name: member for member in classic_names()}
    found: dict[str, bytes] = {}
    todo = [DEVICE]
    while todo:
        name = todo.pop()
        data = read(members[name])
        if data is None:
            raise SourceError(f"{origin} has no {members[name]}", hint=_WHAT_IS_NEEDED)
        found[name] = data
        # Headers of AMD's libraries are included by quoted names too: those are the compiler's.
        named = scan.includes(data.decode("utf-8", "replace"))
        todo += [name for name in named if name in members and name not in (*found, *todo)]
    return {name: found[name] for name in members if name in found}


def describe(contents: Mapping[str, bytes], read: Reader, origin: str) -> dict[str, Any]:
    """Recognise the release and return what it needs: fields of :class:`SourceTree`.

    :param contents: from :func:`collect`.
    :param read: for files that tell releases apart without being compiled.
    :raises SourceError: this is no llamafile's ``ggml-cuda.cu``.
    """
    text = contents[DEVICE]
    releases = _narrow(_by_crc(text), read)
    recipe = _recipe_of(releases) if releases else _nearest(text, origin)
    device = b"\n".join(contents.values())
    note = () if releases else (_unknown(text, recipe),)
    code_size = ("recipe:code-size",) if recipe.code_size else ()
    return {
        "kind": "llamafile",
        "version": "-".join(dict.fromkeys((releases[0], releases[-1]))) if releases else None,
        "layout": "classic",
        "flavors": ("classic",),
        "notes": note,
        "device": (DEVICE,),
        "includes": (".",),
        "defines": recipe.defines,
        "fast_math": recipe.fast_math,
        "levels": scan.levels(device),
        "declared": scan.declared(contents.get("ggml-cuda.h", b"")),
        "markers": (*scan.markers("device", device), *code_size),
        **(_hip(releases[0]) if releases else {}),
        "recipe": recipe,
    }


def _by_crc(text: bytes) -> list[str]:
    """Every release with this very file; git on Windows may have changed its line ends."""
    for variant in (text, text.replace(b"\r\n", b"\n")):
        crc = _crc(variant)
        known = [name for name, files in _releases()["crc32"].items() if files[DEVICE] == crc]
        if known:
            return known
    return []


def _narrow(releases: list[str], read: Reader) -> list[str]:
    """Keep the releases whose other files are those at hand too, if any are."""
    table = _releases()["crc32"]
    for member in classic_names():
        name = Path(member).name
        if name == DEVICE or not any(name in table[release] for release in releases):
            continue
        crc = _crc((read(member) or b"").replace(b"\r\n", b"\n"))
        releases = [r for r in releases if table[r].get(name, crc) == crc] or releases
    return releases


def _recipe_of(releases: Iterable[str]) -> ClassicRecipe:
    """Recipe of one release, or of several with the same ``ggml-cuda.cu``."""
    releases = list(releases)
    wanted = [release_number(release) for release in releases]
    symbols = (
        name
        for name, (first, last) in _releases()["symbols"].items()
        if any(release_number(first) <= release <= release_number(last) for release in wanted)
    )
    return _recipe(_entry(releases[0]), symbols)


def _hip(release: str) -> dict[str, Any]:
    """What a release asks of the compilers for AMD GPUs; a changed source may ask for less."""
    entry = _entry(release)
    oldest = entry.get("hip_oldest")
    return {
        "hip_oldest": (oldest[0], oldest[1]) if oldest else None,
        "hip_why": entry.get("hip_why", ""),
        "hip_blas": entry.get("hip_blas", ""),
    }


def _entry(release: str) -> Mapping[str, Any]:
    wanted = release_number(release)
    return [entry for entry in _recipes() if release_number(entry["first"]) <= wanted][-1]


def _nearest(text: bytes, origin: str) -> ClassicRecipe:
    """Recipe for a file that is in no release: the newest whose words it has."""
    for entry in reversed(_recipes()):
        if all(word.encode() in text for word in ("ggml_cuda_link", *entry["has"])):
            symbols = (name for name in _releases()["symbols"] if f"{name}(".encode() in text)
            return _recipe(entry, symbols)
    raise SourceError(
        f"{origin} has a ggml-cuda.cu that llamafile cannot load: it has no ggml_cuda_link",
        hint=f"llamafile 0.5 and older are not supported; {_WHAT_IS_NEEDED}",
    )


def _recipe(entry: Mapping[str, Any], symbols: Iterable[str]) -> ClassicRecipe:
    oldest = entry.get("tinyblas_cuda")
    return ClassicRecipe(
        first=entry["first"],
        last=entry["last"],
        defines=tuple(entry["defines"]),
        required=tuple(symbols),
        fast_math=entry["fast_math"],
        code_size=entry["code_size"],
        link_returns=entry["link_returns"],
        cxx_standard=entry.get("cxx_standard"),
        tinyblas_cuda=(oldest[0], oldest[1]) if oldest else None,
    )


def _unknown(text: bytes, recipe: ClassicRecipe) -> str:
    return (
        f"its ggml-cuda.cu (CRC-32 {_crc(text)}) is in no llamafile release known here; "
        f"it is compiled as in llamafile {recipe.releases}, which it resembles most"
    )


def _crc(data: bytes) -> str:
    return f"{zlib.crc32(data):08x}"


@cache
def _recipes() -> tuple[dict[str, Any], ...]:
    """Every recipe, with its last release and the defines it takes over from the one before."""
    known = list(_releases()["crc32"])
    starts = [known.index(entry["first"]) for entry in _releases()["recipe"]]
    whole: list[dict[str, Any]] = []
    for entry, end in zip(_releases()["recipe"], [*starts[1:], len(known)], strict=True):
        inherited = whole[-1]["defines"] if whole else ()
        whole.append({"defines": inherited, **entry, "last": known[end - 1]})
    return tuple(whole)


@cache
def _releases() -> dict[str, Any]:
    import tomllib

    return tomllib.loads(Path(__file__).with_name("releases.toml").read_text("utf-8"))
