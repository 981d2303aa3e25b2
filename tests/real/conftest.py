"""Real tools and real sources: what is missing is skipped, unless everything must be there.

``LLAMABUILD_TESTS=all_must_work`` turns every skipped test into a failed one, so that a CI whose
compiler got lost does not pass. ``LLAMABUILD_TEST_SOURCES`` names sources as ``--source`` takes
them, separated by commas; each test with a ``real_source`` runs once for each. Where none is named,
tests that live on them are skipped, or left out of a run in which everything must work.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from typing import TypeVar

import pytest

ALL_MUST_WORK = os.environ.get("LLAMABUILD_TESTS") == "all_must_work"
SOURCES = [
    spec.strip()
    for spec in os.environ.get("LLAMABUILD_TEST_SOURCES", "").split(",")
    if spec.strip()
]


@pytest.fixture(scope="session")
def need() -> Callable[[object, str], None]:
    """Skip the test if what it needs was not found: ``need(shutil.which("g++"), "g++")``."""

    def check(found: object, what: str) -> None:
        if not found:
            pytest.skip(f"needs {what}")

    return check


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test with a ``real_source`` for every source that was named."""
    if "real_source" in metafunc.fixturenames:
        nothing = pytest.param("", marks=pytest.mark.skip("LLAMABUILD_TEST_SOURCES names none"))
        metafunc.parametrize("real_source", SOURCES or [nothing])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what lives on named sources, where none is named and nothing may be skipped."""
    if ALL_MUST_WORK and not SOURCES:
        given = {"real_source", "named"}
        left_out = [item for item in items if given & set(getattr(item, "fixturenames", ()))]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let no test be skipped where everything must work."""
    return _strictly((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a whole file."""
    return _strictly((yield))


Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


def _strictly(report: Report) -> Report:
    if ALL_MUST_WORK and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"LLAMABUILD_TESTS=all_must_work, but: {reason}"
    return report
