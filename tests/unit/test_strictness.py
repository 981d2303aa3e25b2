"""With LLAMABUILD_TESTS=all_must_work a real test that would be skipped fails."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from llamabuild import run

CONFTEST = Path(__file__).parents[1] / "real" / "conftest.py"
TESTS = {
    "need": "def test(need): need(None, 'a compiler')",
    "found": "def test(need): need('/usr/bin/nvcc', 'a compiler')",
    "mark": "import pytest\n@pytest.mark.skip('no')\ndef test(): pass",
    "skip": "import pytest\ndef test(): pytest.skip('no')",
    "file": "import pytest\npytest.skip('no', allow_module_level=True)",
    "xfail": "import pytest\n@pytest.mark.xfail\ndef test(): assert False",
    "source": "def test(real_source): assert real_source in ('a', 'pypi:b==1')",
}


def outcomes(folder: Path, test: str, **environ: str) -> dict[str, int]:
    """Run one test file below the conftest of the real tests; return pytest's closing counts."""
    shutil.copy(CONFTEST, folder)
    (folder / "test_it.py").write_text(test)
    done = run.capture(
        [sys.executable, "-m", "pytest", "--rootdir", ".", "-p", "no:cacheprovider", "test_it.py"],
        cwd=folder,
        env=os.environ | environ,
        timeout=120,
    )
    closing = done.stdout.strip().splitlines()[-1]
    found = re.findall(r"(\d+) (\w+?)s?\b", closing.partition(" in ")[0])
    return {word: int(number) for number, word in found}


@pytest.mark.parametrize(
    ("test", "usual", "strict"),
    [
        ("need", "skipped", "failed"),
        ("found", "passed", "passed"),
        ("mark", "skipped", "error"),
        ("skip", "skipped", "failed"),
        ("file", "skipped", "error"),
        ("xfail", "xfailed", "xfailed"),
        ("source", "skipped", "deselected"),  # nothing to try, rather than something missing
    ],
)
def test_a_skip_is_a_failure(tmp_path: Path, test: str, usual: str, strict: str) -> None:
    assert outcomes(tmp_path, TESTS[test]) == {usual: 1}
    assert outcomes(tmp_path, TESTS[test], LLAMABUILD_TESTS="all_must_work") == {strict: 1}


def test_each_source_is_tried(tmp_path: Path) -> None:
    environ = {"LLAMABUILD_TEST_SOURCES": "a, pypi:b==1,"}
    assert outcomes(tmp_path, TESTS["source"], **environ) == {"passed": 2}
