from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from llamabuild import errors
from llamabuild.cli.reference import updated
from llamabuild.settings import COMMANDS, OPTIONS

PAGE = Path(__file__).parents[3] / "docs" / "reference.md"


def section(text: str, heading: str) -> str:
    """From a heading to the next one of its level."""
    return re.split(r"^## ", text.partition(f"\n## {heading}\n")[2], flags=re.MULTILINE)[0]


def test_the_page_is_up_to_date() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert updated(text) == text, "run python -m llamabuild.cli.reference docs/reference.md"


def test_every_command_option_variable_and_exit_code_is_on_it() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name in COMMANDS:
        assert f"`llamabuild {name}" in section(text, "Commands")
    options = " ".join(section(text, "Options").split())
    for option in OPTIONS:
        assert re.search(rf"`{option.flag}[` ]", options), option.flag
        assert option.help in options
        assert all(f"`{variable}`" in options for variable in option.variables)
    codes = section(text, "Exit codes")
    for name in errors.__all__:
        error = getattr(errors, name)
        if error is not errors.LlamabuildError:
            assert f"| {error.exit_code} | `{name}` | " in codes


def test_only_the_generated_parts_change() -> None:
    page = "before\n<!-- generated: commands -->\nOLD\n<!-- end -->\nafter\n"
    new = updated(page)
    assert new.startswith("before\n<!-- generated: commands -->\n\n- `llamabuild build`")
    assert new.endswith("\n<!-- end -->\nafter\n")
    assert "OLD" not in new
    assert updated(new) == new


def test_a_part_that_nobody_makes_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        updated("<!-- generated: nonsense -->\n<!-- end -->")


def test_from_the_command_line(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("ä\n<!-- generated: exit-codes -->\n<!-- end -->\n", encoding="utf-8")
    command = [sys.executable, "-m", "llamabuild.cli.reference", str(page)]
    subprocess.run(command, check=True, env=os.environ)
    assert "| 130 | `InterruptedByUser` |" in page.read_text(encoding="utf-8")
