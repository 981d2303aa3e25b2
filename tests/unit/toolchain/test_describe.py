"""Reading what nvcc and its headers say, in every dialect and when they talk nonsense."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamabuild.toolchain.describe import HostLimits, disagreement, host_limits, target_codes
from llamabuild.toolchain.facts import facts, numbers

from .conftest import Sandbox

CODES = st.builds(
    "{}_{}{}".format,
    st.sampled_from(["sm", "compute"]),
    st.integers(10, 199),
    st.sampled_from(["", "a", "f"]),
)


def help_text(codes: Sequence[str]) -> str:
    """The options of nvcc's help around --gpu-code, with the values wrapped as it wraps them."""
    lines, line = [], "        Allowed values for this option: "
    for code in codes:
        if len(line) > 70:
            lines.append(line)
            line = "        "
        line += f"'{code}',"
    return "\n".join(
        [
            "--gpu-architecture <arch>                           (-arch)",
            "        Allowed values for this option: 'all','native','sm_11'.",
            "--gpu-code <code>,...                               (-code)",
            "        For instance, '--gpu-architecture=compute_60' is not compatible with",
            "        '--gpu-code=sm_52', because ...",
            *lines,
            line.rstrip(",") + ".",
            "",
            "--generate-code <specification>,...                 (-gencode)",
            "        Allowed values for this option: 'sm_12'.",
        ]
    )


@settings(deadline=None)
@given(st.sets(CODES))
def test_every_allowed_value_is_read_however_the_list_is_wrapped(codes: set[str]) -> None:
    assert target_codes(help_text(sorted(codes))) == sorted(codes)


def test_intermediate_code_for_link_time_optimization_is_no_target() -> None:
    assert target_codes(help_text(["lto_75", "sm_75", "compute_75"])) == ["compute_75", "sm_75"]


@settings(deadline=None)
@given(st.text())
def test_any_text_at_all_has_some_list_of_targets(text: str) -> None:
    assert target_codes(text) == []
    assert target_codes("--gpu-code <code>" + text) == sorted(
        set(target_codes("--gpu-code <code>" + text))
    )


@pytest.mark.parametrize(
    ("header", "limits"),
    [
        ("#if __GNUC__ > 11\n#error\n#endif", HostLimits(11, None, None)),
        (
            "#if defined(__clang__)&& !defined(__ICC)\n\n#if (__clang_major__ >= 15) || 0\n",
            HostLimits(None, 14, None),
        ),
        (
            "#if defined(__clang__) && !defined(__ICC)\n#if (__clang_major__ > 18) || 0\n",
            HostLimits(None, 18, None),
        ),
        (
            # A limit for another compiler that is made of clang comes first, and is another.
            """
#if (__GRCO_CLANG_COMPILER__ == 1) && ((__clang_major__ < 16) || (__clang_major__ > 20))
#endif
#if defined(__clang__) && !defined(__HORIZON__)
#if (__clang_major__ >= 21) || (__clang_major__ < 3)
""",
            HostLimits(None, 20, None),
        ),
        ("#if _MSC_VER < 1910 || _MSC_VER >= 1940\n", HostLimits(None, None, (1910, 1940))),
        ("#if _MSC_VER < 1700 || _MSC_VER > 1916\n", HostLimits(None, None, (1700, 1917))),
        ("", HostLimits(None, None, None)),
    ],
)
def test_the_host_compilers_a_header_accepts_are_read_from_it(
    header: str, limits: HostLimits
) -> None:
    assert host_limits(header) == limits


@settings(deadline=None)
@given(st.text())
def test_a_header_of_any_text_gives_limits_or_none(text: str) -> None:
    assert isinstance(host_limits(text), HostLimits)


@settings(deadline=None)
@given(st.tuples(st.integers(0, 99), st.integers(0, 99), st.integers(0, 999)))
def test_numbers_of_a_version(version: tuple[int, int, int]) -> None:
    assert numbers(".".join(map(str, version))) == version


@settings(deadline=None)
@given(st.text())
def test_numbers_of_any_text(text: str) -> None:
    assert all(number >= 0 for number in numbers(text))


def test_a_version_is_cut_where_its_numbers_end() -> None:
    assert numbers("1.11.1.git.kitware.jobserver-1") == (1, 11, 1)


SAME = {
    "nvcc": "13.0.88",
    "cicc": "13.0.88",
    "ptxas": "13.0.88",
    "cudart": "13.0",
    "crt": "13.0.88",
}


@pytest.mark.parametrize(
    ("piece", "version", "agrees"),
    [
        ("cicc", "13.0.48", True),
        ("cicc", "13.1.80", False),
        ("ptxas", "12.0.88", False),
        ("crt", "13.5.37", False),
        ("cudart", "13.5", True),
        ("cudart", "12.9", False),
    ],
)
def test_parts_of_the_compiler_agree_in_release_and_the_runtime_in_its_major_version(
    piece: str, version: str, agrees: bool
) -> None:
    problem = disagreement(SAME | {piece: version})
    assert (problem == "") is agrees
    assert agrees or f"{piece} is {version}" in problem


@pytest.mark.parametrize(
    ("declaration", "below"),
    [
        ("double cospi(double x);\nextern double rsqrt(double x);", "2.41"),
        ("double cospi(double x) SPECIFIER;\nextern double rsqrt(double x);", "2.42"),
        ("double cospi(double x) noexcept (true);\nextern double rsqrt(double x) throw();", ""),
    ],
)
def test_whether_a_header_contradicts_a_new_glibc_is_read_from_it(
    sandbox: Sandbox, declaration: str, below: str
) -> None:
    sandbox.toolkit(sandbox.root / "opt/cuda")
    header = sandbox.root / "opt/cuda/include/crt/math_functions.h"
    header.write_text(f"extern __device_builtin__ {declaration}\n")
    assert sandbox.find().toolkits[0].glibc_below == below


def test_every_table_is_of_the_form_that_its_readers_expect() -> None:
    tables = facts()
    for defect in tables["defect"]:
        assert numbers(defect["first"]) < numbers(defect["fixed"])
    assert [numbers(clash["since"]) for clash in tables["glibc"]] == sorted(
        numbers(clash["since"]) for clash in tables["glibc"]
    )
    assert all(len(numbers(toolkit["release"])) == 2 for toolkit in tables["toolkit"])
