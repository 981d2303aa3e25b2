from __future__ import annotations

import pytest

from llamabuild import errors


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("UsageError", 2),
        ("ArchitectureError", 3),
        ("ToolchainError", 4),
        ("SourceError", 5),
        ("CompilationError", 6),
        ("ModuleRejectedError", 7),
        ("StoreError", 8),
        ("DeliveryError", 9),
        ("InterruptedByUser", 130),
    ],
)
def test_exit_codes_are_a_promise(name: str, code: int) -> None:
    error = getattr(errors, name)("it failed", hint="type this")
    assert isinstance(error, errors.LlamabuildError)
    assert error.exit_code == code
    assert (str(error), error.message, error.hint) == ("it failed", "it failed", "type this")


def test_there_is_no_other() -> None:
    assert len(errors.__all__) == 1 + 9


def test_a_hint_is_not_always_to_be_had() -> None:
    assert errors.SourceError("it failed").hint == ""
