"""Reading texts and computing digests: laws that hold for any input."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from llamabuild.source import digest, scan, versions
from llamabuild.source.model import SourceTree

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=9)
CONTENTS = st.dictionaries(NAMES.filter(lambda n: n not in (".", "..")), st.binary(max_size=40))


@given(CONTENTS)
def test_a_digest_does_not_depend_on_order(contents: dict[str, bytes]) -> None:
    backwards = dict(reversed(contents.items()))
    assert digest.of_contents(contents) == digest.of_contents(backwards)


@given(CONTENTS, CONTENTS)
def test_different_contents_have_different_digests(
    one: dict[str, bytes], two: dict[str, bytes]
) -> None:
    assert (digest.of_contents(one) == digest.of_contents(two)) == (one == two)


def test_a_byte_that_moves_to_the_next_file_is_a_difference() -> None:
    one = digest.of_contents({"a": b"1", "b": b""})
    assert one != digest.of_contents({"a": b"", "b": b"1"})
    assert one != digest.of_contents({"a": b"1b", "": b""})


def test_the_digest_of_a_folder_is_that_of_its_contents(tmp_path: Path) -> None:
    contents = {"a.c": b"a", "sub/b.h": bytes(3_000_000)}
    (tmp_path / "sub").mkdir()
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    assert digest.of_folder(tmp_path, contents) == digest.of_contents(contents)


@given(st.binary(max_size=300))
def test_any_bytes_can_be_scanned(text: bytes) -> None:
    for role in ("device", "core", "cmake"):
        assert all(found.startswith(role) for found in scan.markers(role, text))
    assert scan.levels(text) == tuple(sorted(set(scan.levels(text))))
    scan.declared(text)
    scan.includes(text.decode("utf-8", "replace"))
    versions.of_ggml(text)


@given(st.integers(min_value=50, max_value=999))
@settings(max_examples=30)
def test_a_level_is_found_by_number_and_by_name(level: int) -> None:
    number = level * 10
    by_number = f"#if __CUDA_ARCH__ >= {number}\n".encode()
    by_name = f"# define CC_X {number} // x\n#if defined(A) && __CUDA_ARCH__ < CC_X\n".encode()
    assert scan.levels(by_number) == scan.levels(by_name) == (level,)


def test_amds_numbers_and_very_old_cards_are_no_levels() -> None:
    text = (
        b"#define CC_OFFSET_AMD 1000000\n#define CC_RDNA2 (CC_OFFSET_AMD + 1030)\n"
        b"#if __CUDA_ARCH__ >= CC_RDNA2 || __CUDA_ARCH__ >= 350 || __CUDA_ARCH__ > CC_OFFSET_AMD\n"
    )
    assert scan.levels(text) == ()


def test_includes_are_the_quoted_ones() -> None:
    text = '#include "a.h"\n  # include "b/c.cuh" // x\n#include <d.h>\n// #include "e.h"\n'
    assert scan.includes(text) == ("a.h", "b/c.cuh")


def test_ggmls_version_needs_all_its_parts() -> None:
    text = b"set(GGML_VERSION_MAJOR 0)\nset(GGML_VERSION_MINOR 9)\n"
    assert versions.of_ggml(text) is None
    assert versions.of_ggml(text + b"set(GGML_VERSION_PATCH 11)\n") == "0.9.11"


def test_a_tree_survives_being_remembered() -> None:
    import json

    tree = SourceTree(
        kind="ggml",
        version=None,
        root=Path("/r"),
        files=("a.c",),
        digest="d",
        layout="split",
        flavors=("backend-dl",),
        origin="o",
        levels=(61, 75),
        watched=(Path("/r/a.c"),),
    )
    remembered = json.loads(json.dumps(tree.to_json()))
    assert (
        SourceTree.from_json(remembered, root=tree.root, origin="o", watched=tree.watched) == tree
    )


def test_the_oldest_hip_is_read_where_cmake_refuses_older_ones() -> None:
    assert scan.hip_oldest(b'if (${hip_VERSION} VERSION_LESS "5.5")\n error\nendif()') == (5, 5)
    assert scan.hip_oldest(b"if (${hip_VERSION} VERSION_LESS 6.1)\n") == (6, 1)
    assert scan.hip_oldest(b"if (${hip_VERSION} VERSION_GREATER 6.1)\n") is None
    assert scan.hip_oldest(b"") is None
