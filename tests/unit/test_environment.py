"""What has to be set for a module and the GPUs of a machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.probe.kfd_tree import KfdTree

from llamabuild import arch, pipeline, probe
from llamabuild.arch import facts
from llamabuild.errors import ArchitectureError, UsageError
from llamabuild.inspect import Entry, Module
from llamabuild.pipeline.environment import Environment, Gpus, hip_environment
from llamabuild.probe import Detection, Gpu, Problem

NAVI21 = Gpu("amd", 0, "RX 6800", "gfx1030", 2**34, "6.8", "KFD", "GPU-1", node=1)
NAVI22 = replace(NAVI21, name="RX 6700 XT", arch="gfx1031", uuid="GPU-2")
NAVI31 = replace(NAVI21, name="RX 7900 XTX", arch="gfx1100", uuid="GPU-3")
NAVI33 = replace(NAVI21, name="RX 7600", arch="gfx1102", uuid="GPU-4")
VEGA10 = replace(NAVI21, name="Vega 64", arch="gfx900", uuid="GPU-5")
RAPHAEL = replace(
    NAVI21, name="Radeon Graphics", arch="gfx1036", uuid="", memory_bytes=None, integrated=True
)
PHOENIX = replace(RAPHAEL, name="Radeon 780M", arch="gfx1103")


def placed(*gpus: Gpu) -> tuple[Gpu, ...]:
    """The GPUs as the kernel lists them behind one processor."""
    return tuple(replace(gpu, index=index, node=index + 1) for index, gpu in enumerate(gpus))


def decide(
    gpus: Sequence[Gpu],
    compiled: Sequence[str],
    environ: Mapping[str, str] | None = None,
    *,
    visible: Sequence[int] | None = None,
    overrides: bool = True,
) -> Environment:
    machine = placed(*gpus)
    seen = machine if visible is None else tuple(machine[index] for index in visible)
    layers = Gpus(machine, machine, seen)
    return hip_environment(layers, compiled, environ or {}, file=Path("m.so"), overrides=overrides)


def made(found: Environment) -> dict[str, str | None]:
    return {setting.name: setting.value for setting in found.settings}


# --- one kind of card -----------------------------------------------------------------------------


def test_a_card_with_code_of_its_own_needs_nothing() -> None:
    assert made(decide([NAVI21], ["gfx906", "gfx1030"])) == {}


def test_generic_code_needs_nothing() -> None:
    assert made(decide([NAVI22], ["gfx10-3-generic"])) == {}


@pytest.mark.parametrize("gpus", [[NAVI22], [NAVI22, NAVI22]])
def test_a_card_passes_for_its_kin(gpus: list[Gpu]) -> None:
    found = decide(gpus, ["gfx906", "gfx1030", "gfx1100"])
    assert made(found) == {"HSA_OVERRIDE_GFX_VERSION": "10.3.0"}
    assert "RX 6700 XT (gfx1031) runs code for gfx1030" in found.settings[0].reason
    assert [fate.runs for fate in found.fates] == ["override"] * len(gpus)


def test_kin_beside_the_card_it_passes_for() -> None:
    assert made(decide([NAVI21, NAVI22], ["gfx1030"])) == {"HSA_OVERRIDE_GFX_VERSION": "10.3.0"}


def test_a_processor_alone_may_pass_for_a_card() -> None:
    found = decide([PHOENIX], ["gfx1100"])
    assert made(found) == {"HSA_OVERRIDE_GFX_VERSION": "11.0.0"}
    assert any(note.level == "warning" and "hang" in note.text for note in found.notes)
    assert any("users report" in note.text for note in found.notes)


def test_a_safe_override_comes_without_a_warning() -> None:
    assert decide([NAVI22], ["gfx1030"]).notes == ()


# --- mixed cards ----------------------------------------------------------------------------------


def test_cards_of_different_kin_get_an_override_each() -> None:
    found = decide([NAVI33, NAVI22], ["gfx1030", "gfx1100"])
    assert made(found) == {
        "HSA_OVERRIDE_GFX_VERSION_1": "11.0.0",
        "HSA_OVERRIDE_GFX_VERSION_2": "10.3.0",
    }
    assert "ROCm 6.2" in found.settings[0].reason


def test_only_the_card_that_needs_it_is_renamed() -> None:
    assert made(decide([NAVI31, NAVI22], ["gfx1030", "gfx1100"])) == {
        "HSA_OVERRIDE_GFX_VERSION_2": "10.3.0"
    }


def test_a_hidden_card_is_not_renamed_to_another_kind() -> None:
    """An override for all would concern it, too, and ROCm refuses to start."""
    found = decide([NAVI31, NAVI22], ["gfx1030"], visible=[1])
    assert made(found) == {"HSA_OVERRIDE_GFX_VERSION_2": "10.3.0"}


def test_a_hidden_card_may_be_renamed_to_its_kin() -> None:
    found = decide([NAVI22, RAPHAEL], ["gfx1030"], visible=[0])
    assert made(found) == {"HSA_OVERRIDE_GFX_VERSION": "10.3.0"}


def test_gpus_that_nobody_numbers_cannot_be_told_apart() -> None:
    gpus = tuple(replace(gpu, node=None) for gpu in placed(NAVI31, NAVI22))
    with pytest.raises(ArchitectureError, match="does not number") as caught:
        hip_environment(Gpus(gpus, gpus, gpus), ["gfx1030", "gfx1100"], {})
    assert "rocminfo" in caught.value.hint


# --- what is left out ----------------------------------------------------------------------------


def test_a_processor_without_code_is_left_out() -> None:
    found = decide([NAVI31, RAPHAEL], ["gfx1100"])
    assert made(found) == {"HIP_VISIBLE_DEVICES": "0"}
    assert "Radeon Graphics (gfx1036) is left out: there is no code" in found.settings[0].reason
    assert [fate.left_out for fate in found.fates] == [False, True]


def test_a_processor_that_would_need_an_override_is_left_out_beside_a_card() -> None:
    found = decide([RAPHAEL, NAVI31], ["gfx1030", "gfx1100"])
    assert made(found) == {"HIP_VISIBLE_DEVICES": "1"}
    assert "integrated, beside a card" in found.settings[0].reason


def test_a_processor_with_code_of_its_own_stays() -> None:
    assert made(decide([NAVI31, RAPHAEL], ["gfx1036", "gfx1100"])) == {}


def test_a_card_without_code_is_left_out_and_the_other_renamed() -> None:
    found = decide([VEGA10, NAVI22], ["gfx1030"])
    assert made(found) == {
        "HSA_OVERRIDE_GFX_VERSION_2": "10.3.0",
        "HIP_VISIBLE_DEVICES": "1",
    }


def test_the_users_order_is_kept() -> None:
    found = decide([NAVI21, VEGA10, NAVI21], ["gfx1030"], visible=[2, 1, 0])
    assert made(found) == {"HIP_VISIBLE_DEVICES": "2,0"}


def test_hip_counts_what_the_runtime_leaves() -> None:
    machine = placed(NAVI31, RAPHAEL, NAVI31)
    runtime = (machine[2], machine[1])
    found = hip_environment(Gpus(machine, runtime, runtime), ["gfx1100"], {})
    assert made(found) == {"HIP_VISIBLE_DEVICES": "0"}


def test_nothing_runs() -> None:
    with pytest.raises(ArchitectureError) as caught:
        decide([replace(NAVI21, arch="gfx1010")], ["gfx1030", "gfx906"])
    assert "m.so holds no code that gfx1010 could run: gfx1030, gfx906" in caught.value.message
    assert "RDNA 2 has instructions that RDNA 1 lacks" in caught.value.message
    assert caught.value.hint == "build for it: llamabuild --backend hip --arch gfx1010"


def test_windows_knows_no_override() -> None:
    with pytest.raises(ArchitectureError, match="no code that gfx1031"):
        decide([NAVI22], ["gfx1030"], overrides=False)


# --- what is set already -------------------------------------------------------------------------


def test_an_override_that_is_in_the_way_goes() -> None:
    environ = {"HSA_OVERRIDE_GFX_VERSION": "10.3.0", "HSA_OVERRIDE_GFX_VERSION_1": "11.0.0"}
    assert made(decide([NAVI31], ["gfx1100"], environ)) == dict.fromkeys(environ)


def test_an_override_of_one_node_would_go_before_that_of_all() -> None:
    environ = {"HSA_OVERRIDE_GFX_VERSION_1": "10.3.1"}
    assert made(decide([NAVI22], ["gfx1030"], environ)) == {
        "HSA_OVERRIDE_GFX_VERSION": "10.3.0",
        "HSA_OVERRIDE_GFX_VERSION_1": None,
    }


def test_settings_are_applied_to_a_copy() -> None:
    environ = {"HSA_OVERRIDE_GFX_VERSION_1": "10.3.1", "HOME": "/root"}
    found = decide([NAVI22], ["gfx1030"], environ)
    assert found.applied(environ) == {"HSA_OVERRIDE_GFX_VERSION": "10.3.0", "HOME": "/root"}
    assert "HSA_OVERRIDE_GFX_VERSION_1" in environ


# --- any machine, any module ----------------------------------------------------------------------

CARDS = sorted(name for name in facts.hip_features() if "generic" not in name)
TARGETS = sorted(facts.hip_features())


@given(
    st.lists(st.tuples(st.sampled_from(CARDS), st.booleans()), min_size=1, max_size=4),
    st.lists(st.sampled_from(TARGETS), min_size=1, max_size=4),
    st.dictionaries(
        st.sampled_from(["HSA_OVERRIDE_GFX_VERSION", "HSA_OVERRIDE_GFX_VERSION_2"]),
        st.sampled_from(["10.3.0", "9.0.0"]),
    ),
)
def test_every_gpu_that_stays_is_given_code_that_it_runs(
    cards: list[tuple[str, bool]], compiled: list[str], environ: dict[str, str]
) -> None:
    gpus = placed(*[replace(NAVI21, arch=name, integrated=apu) for name, apu in cards])
    try:
        found = hip_environment(Gpus(gpus, gpus, gpus), compiled, environ)
    except ArchitectureError:
        assert not any(
            arch.runs_natively(gpu.arch, compiled) or arch.override_for(gpu.arch, compiled)
            for gpu in gpus
        )
        return
    after = found.applied(environ)
    mask = after.get("HIP_VISIBLE_DEVICES", ",".join(str(gpu.index) for gpu in gpus))
    stay = [gpus[int(place)] for place in mask.split(",")]
    assert stay
    for gpu in stay:
        version = after.get(f"HSA_OVERRIDE_GFX_VERSION_{gpu.node}") or after.get(
            "HSA_OVERRIDE_GFX_VERSION"
        )
        reported = next((name for name in CARDS if arch.gfx_version(name) == version), gpu.arch)
        assert arch.runs_natively(reported, compiled)
        assert reported == gpu.arch or arch.override_for(gpu.arch, [reported])


# --- from a machine and a file --------------------------------------------------------------------


def module(*targets: str, kind: str = "gcn") -> Module:
    entries = [Entry(kind, target, 0, 1, ()) for target in targets]  # type: ignore[arg-type]
    return Module(
        path=Path("m.so"), entries=tuple(entries), sha256="", size_bytes=1, notes=(),
        format="elf", machine="x86_64", exported=(), undefined=(), needed=(), soname="",
        stripped=False,
    )  # fmt: skip


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> dict[Path, Module]:
    """The modules that can be read."""
    files: dict[Path, Module] = {}
    monkeypatch.setattr("llamabuild.inspect.read_module", files.__getitem__)
    return files


GEFORCE = Gpu("nvidia", 0, "GTX 1080", "61", 2**33, "550.1", "NVML", "GPU-9")
NO_AMD = Detection((), (Problem("there is no AMD GPU", "name one"),), None, absent=True)
NO_NVIDIA = Detection((), (Problem("there is no NVIDIA GPU", "name one"),), None, absent=True)


def asked(
    file: str | None = None,
    backend: str | None = None,
    *,
    amd: Detection = NO_AMD,
    nvidia: Detection = NO_NVIDIA,
) -> Environment:
    path = Path(file) if file else None
    return pipeline.environment(
        path, backend, {}, detect_amd=lambda _: amd, detect_nvidia=lambda _: nvidia,
        platform="linux",
    )  # fmt: skip


def seen(*gpus: Gpu) -> Detection:
    return Detection(placed(*gpus) if gpus[0].vendor == "amd" else gpus, (), None)


def test_a_machine_of_files(tmp_path: Path, reads: dict[Path, Module]) -> None:
    tree = KfdTree(tmp_path).processor().gpu(110000, minor=128).gpu(100306, minor=129)
    tree.gpu(100301, minor=130)
    reads[Path("m.so")] = module("gfx1030", "gfx1100")
    found = pipeline.environment(
        Path("m.so"),
        None,
        {"ROCR_VISIBLE_DEVICES": "2,1", "HIP_VISIBLE_DEVICES": "1,0"},
        detect_amd=lambda environ: probe.detect_amd(environ, root=tmp_path, platform="linux"),
        platform="linux",
    )
    assert made(found) == {"HSA_OVERRIDE_GFX_VERSION_3": "10.3.0", "HIP_VISIBLE_DEVICES": "0"}


def test_on_windows_no_override_is_offered() -> None:
    with pytest.raises(ArchitectureError, match="no code that gfx1031 could run"):
        pipeline.environment(None, None, {}, detect_amd=lambda _: seen(NAVI22), platform="win32")


def test_without_a_module_amds_own_targets_are_assumed() -> None:
    found = asked(amd=seen(NAVI22))
    assert made(found) == {"HSA_OVERRIDE_GFX_VERSION": "10.3.0"}
    assert any("no module was named" in note.text for note in found.notes)


def test_the_modules_own_targets_count(reads: dict[Path, Module]) -> None:
    reads[Path("m.so")] = module("gfx1031")
    assert made(asked("m.so", amd=seen(NAVI22))) == {}


@pytest.mark.parametrize("backend", [None, "hip"])
def test_no_amd_gpu(backend: str | None) -> None:
    with pytest.raises(ArchitectureError, match="there is no AMD GPU"):
        asked(backend=backend)


def test_no_hint_names_an_option_that_is_not_there() -> None:
    none = Detection((), (Problem("there is no AMD GPU", "name one: --arch gfx1100"),), None)
    with pytest.raises(ArchitectureError) as caught:
        asked(amd=none, nvidia=none)
    assert caught.value.hint == "llamabuild detect tells more of what is here"


def test_a_broken_amd_gpu_is_not_passed_over() -> None:
    shut = Detection((), (Problem("this user may not open /dev/kfd", "usermod"),), None)
    with pytest.raises(ArchitectureError, match="may not open") as caught:
        asked(amd=shut, nvidia=seen(GEFORCE))
    assert caught.value.hint == "usermod"


def test_nvidia_needs_nothing(reads: dict[Path, Module]) -> None:
    reads[Path("m.so")] = module("61", kind="sass")
    for found in (
        asked(nvidia=seen(GEFORCE)),
        asked(backend="cuda", nvidia=seen(GEFORCE)),
        asked("m.so", nvidia=seen(GEFORCE)),
    ):
        assert found.backend == "cuda"
        assert found.settings == ()
        assert any("nothing to set" in note.text for note in found.notes)


def test_ptx_is_told_of(reads: dict[Path, Module]) -> None:
    reads[Path("m.so")] = module("60", kind="ptx")
    assert any("compiles m.so" in note.text for note in asked("m.so", nvidia=seen(GEFORCE)).notes)


def test_an_nvidia_gpu_without_code(reads: dict[Path, Module]) -> None:
    reads[Path("m.so")] = module("90", kind="sass")
    with pytest.raises(ArchitectureError, match=r"no code for 61") as caught:
        asked("m.so", nvidia=seen(GEFORCE))
    assert caught.value.hint == "build for it: llamabuild --arch 61"


def test_a_module_of_the_other_vendor(reads: dict[Path, Module]) -> None:
    reads[Path("m.so")] = module("gfx1030")
    with pytest.raises(UsageError, match="is for hip"):
        asked("m.so", "cuda", nvidia=seen(GEFORCE))


def test_a_module_without_code(reads: dict[Path, Module]) -> None:
    reads[Path("m.so")] = module()
    with pytest.raises(UsageError, match="no code for a GPU"):
        asked("m.so", amd=seen(NAVI22))
