"""nvcc's printed plan becomes a graph that builds the same thing, with nothing waiting in vain."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamabuild.engine.graph import Graph, Stage
from llamabuild.engine.stages import NotUnderstood, parse

DATA = Path(__file__).parent / "data"


def graph(version: str) -> Graph:
    return parse(
        (DATA / f"dryrun-{version}.txt").read_text(),
        folder="stages",
        host_compiler="g++",
        module_id="_0123_tiny",
    )


def named(found: Graph, label: str) -> Stage:
    (stage,) = [stage for stage in found.stages if stage.label == label]
    return stage


def ancestors(found: Graph, stage: Stage) -> set[str]:
    """The labels of everything that must have run before a stage."""
    makers = {name: other for other in found.stages for name in other.makes}
    above = {makers[name] for name in stage.needs}
    return {other.label for other in above}.union(*(ancestors(found, other) for other in above))


@pytest.mark.parametrize("version", ["11.8", "13.0"])
def test_every_need_is_made_once_or_written_beforehand(version: str) -> None:
    found = graph(version)
    made = [name for stage in found.stages for name in stage.makes]
    assert len(made) == len(set(made))
    assert {name for stage in found.stages for name in stage.needs} <= {*made, *found.files}
    assert set(found.objects) <= set(made)


def test_architectures_do_not_wait_for_each_other() -> None:
    found = graph("11.8")
    for level in ("61", "75", "90"):
        above = ancestors(found, named(found, f"cicc compute_{level}"))
        assert above == {f"g++-11 preprocessor {level}0"}
    assert ancestors(found, named(found, "ptxas sm_75")) == {
        "g++-11 preprocessor 750",
        "cicc compute_75",
    }


@pytest.mark.parametrize("version", ["11.8", "13.0"])
def test_the_host_compiler_does_not_wait_for_machine_code(version: str) -> None:
    found = graph(version)
    (host,) = [stage for stage in found.stages if stage.makes == ("stages/host.o",)]
    above = ancestors(found, host)
    assert "cudafe++" in above
    assert not any(label.startswith(("ptxas", "fatbinary")) for label in above)
    assert sum(label.startswith("cicc") for label in above) == 1


def test_the_device_code_holds_every_architecture() -> None:
    found = graph("11.8")
    assemble = named(found, "assemble device code")
    above = ancestors(found, assemble)
    assert {"ptxas sm_61", "ptxas sm_75", "cicc compute_90", "fatbinary"} <= above
    fatbinary = named(found, "fatbinary")
    assert "--image3=kind=ptx,sm=90,file=stages/tiny.compute_90.ptx" in fatbinary.argv
    assert not any(word.startswith("--embedded-fatbin") for word in fatbinary.argv)


@pytest.mark.parametrize("version", ["11.8", "13.0"])
def test_nobody_invents_a_module_id(version: str) -> None:
    found = graph(version)
    assert found.files["stages/tiny.module_id"] == "_0123_tiny"
    assert not any("--gen_module_id_file" in stage.argv for stage in found.stages)


def test_quoting_and_variables_of_the_plan_are_resolved() -> None:
    preprocessor = named(graph("11.8"), "g++-11 preprocessor 610")
    assert 'X="a b"' in preprocessor.argv
    cicc = named(graph("13.0"), "cicc compute_90")
    assert cicc.argv[0].endswith("/nvvm/bin/cicc")
    assert "/home/user/my project/tiny.cu" in cicc.argv


def test_the_tools_get_nvccs_own_environment() -> None:
    assert (
        graph("11.8").environment["NVVMIR_LIBRARY_DIR"] == "/usr/lib/nvidia-cuda-toolkit/libdevice"
    )
    assert "LD_LIBRARY_PATH" in graph("13.0").environment


def test_the_stand_in_names_the_symbol_that_is_assembled() -> None:
    files = graph("13.0").files
    assert "llamabuild__0123_tiny" in files["stages/tiny.fatbin.c"]
    assert ".globl llamabuild__0123_tiny\n" in files["stages/tiny.fatbin.s"]
    assert '.incbin "stages/tiny.fatbin"' in files["stages/tiny.fatbin.s"]


LINES = (DATA / "dryrun-13.0.txt").read_text().splitlines()


@given(st.sets(st.integers(0, len(LINES) - 1), min_size=1, max_size=6))
def test_a_plan_with_lines_missing_is_refused_or_consistent(dropped: set[int]) -> None:
    text = "\n".join(line for number, line in enumerate(LINES) if number not in dropped)
    try:
        found = parse(text, folder="stages", host_compiler="g++", module_id="_1")
    except NotUnderstood:
        return
    made = {name for stage in found.stages for name in stage.makes} | set(found.files)
    assert {name for stage in found.stages for name in stage.needs} <= made


@given(st.text())
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(NotUnderstood):
        parse(text, folder="stages", host_compiler="g++", module_id="_1")
