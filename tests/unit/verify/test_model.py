"""How a verdict and times are shown."""

from __future__ import annotations

import json
from pathlib import Path

from llamabuild.errors import ModuleRejectedError
from llamabuild.verify import Card, Row, Timing, Timings, Unshown, Verdict

ROWS = (
    Row("q4_0", 1, 1, 32, "dp4a", 5e-3, 1e-7, right=True),
    Row("q4_0", 1, 33, 32, "tensor", 6e-3, 4e-4, right=True),
    Row("q4_0", 2, 1, 32, "dp4a", 7e-3, 2e-7, right=True),
    Row("q8_0", 1, 1, 32, "dp4a", None, None, right=False),
    Row("q6_K", 1, 1, 32, "", 1e-3, None, right=True),
    Row("q4_0", 17, 7, 32, "dp4a", 9e-3, 3e-7, right=True, form="batched"),
    Row("q4_0", 17, 7, 32, "dp4a", 1e-3, 1e-7, right=False, form="grouped"),
)


def verdict(error: ModuleRejectedError | None = None) -> Verdict:
    return Verdict(
        path=Path("ggml-cuda.so"),
        flavor="classic",
        card=Card(1, "GeForce GTX 1080", "61", "60"),
        shown=("loads as a classic module",),
        rows=ROWS,
        not_shown=(Unshown("products", "no headers", "name them with --source"),),
        error=error,
        words="",
        seconds=1.23456,
    )


def test_the_table_has_a_line_for_each_type_and_path() -> None:
    header, *rows = verdict().table
    assert header == ("type", "path", "products", "wrong", "worst error", "same activations")
    assert rows == [
        ("q4_0", "dp4a", "2 + 1 batched + 1 grouped", "1 grouped", "9.0e-03", "3.0e-07"),
        ("q4_0", "tensor", "1", "-", "6.0e-03", "4.0e-04"),
        ("q8_0", "dp4a", "1", "1", "not a number", "not a number"),
        ("q6_K", "-", "1", "-", "1.0e-03", "-"),
    ]


def test_the_summary_tells_what_was_shown_and_what_was_not() -> None:
    assert verdict().summary == (
        "GPU 1: GeForce GTX 1080, compute capability 6.1, running the code for 6.0",
        "loads as a classic module",
        "5 of 7 products of 3 types are right",
        "not shown: products: no headers (name them with --source)",
    )


def test_the_document_has_the_error_as_every_command_has_it() -> None:
    document = verdict(ModuleRejectedError("it is wrong", hint="mend it")).to_json()
    assert document["passed"] is False
    assert document["error"] == {
        "code": 7,
        "type": "ModuleRejectedError",
        "message": "it is wrong",
        "hint": "mend it",
    }
    assert "error" not in verdict().to_json()
    assert json.loads(json.dumps(document))["rows"][0] == {
        "type": "q4_0", "m": 1, "n": 1, "k": 32, "path": "dp4a", "error": 5e-3, "same": 1e-7,
        "right": True, "form": "plain",
    }  # fmt: skip


def test_nothing_multiplied_makes_no_table() -> None:
    bare = Verdict(Path("x"), "classic", None, (), (), (), None, "", 0.0)
    assert bare.table == ()
    assert bare.summary == ()


def test_times_are_shown_in_the_usual_units() -> None:
    timing = Timing("q4_0", 4096, 1, 14336, "dp4a", 17.5, 17.1, 18.9, 1.9e12, 6.7e12, 0.45)
    timings = Timings(Path("x"), Card(0, "NVIDIA H200", "90"), 4.2e12, (timing,))
    assert timings.table[1] == (
        "q4_0", "4096", "1", "14336", "dp4a", "17.5", "1900", "45%", "6.7",
    )  # fmt: skip
    assert timings.to_json()["rows"][0]["microseconds"] == 17.5
