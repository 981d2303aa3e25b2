"""Whom to ask about NVIDIA GPUs, what CUDA_VISIBLE_DEVICES leaves, and why there may be none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.unit.probe.kfd_tree import plug

from llamabuild.probe import Detection, Gpu, detect_nvidia
from llamabuild.probe.interfaces import Absent, Answer, Broken, Machine, NotRunning
from llamabuild.probe.nvidia import Interface

UUIDS = (
    "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6",
    "GPU-8945aaaa-0000-1111-2222-333344445555",
    "GPU-1111bbbb-0000-1111-2222-333344445555",
)


def gpu(index: int, arch: str = "89", name: str = "Some GPU", via: str = "NVML") -> Gpu:
    uuid = UUIDS[index] if index < len(UUIDS) else f"GPU-{index}"
    return Gpu("nvidia", index, name, arch, 8 * 2**30, "550.1", via, uuid)


def says(*gpus: Gpu, **more: object) -> Interface:
    return lambda _: Answer(tuple(gpus), **more)  # type: ignore[arg-type]


def raises(error: Exception) -> Interface:
    def interface(_: Machine) -> Answer:
        raise error

    return interface


ABSENT = raises(Absent())
IDLE = raises(NotRunning())


def must_not_be_asked(_: Machine) -> Answer:
    raise AssertionError("an interface was asked although the one before had answered")


def detect(
    *interfaces: Interface, mask: str | None = None, root: Path = Path("/nonexistent"), **env: str
) -> Detection:
    if mask is not None:
        env["CUDA_VISIBLE_DEVICES"] = mask
    return detect_nvidia(env, root=root, platform="linux", interfaces=interfaces)


def indices(detection: Detection) -> list[int]:
    return [gpu.index for gpu in detection.gpus]


# --- whom to ask ------------------------------------------------------------------------------


def test_the_first_that_knows_answers_alone() -> None:
    found = detect(says(gpu(0), gpu(1, "61"), driver_cuda=(12, 4)), must_not_be_asked)
    assert found == Detection((gpu(0), gpu(1, "61")), (), (12, 4))


@pytest.mark.parametrize("first", [ABSENT, IDLE, raises(Broken("bad")), says()])
def test_the_next_is_asked_when_one_cannot_answer(first: Interface) -> None:
    found = detect(first, says(gpu(0, via="libcuda")), must_not_be_asked)
    assert [gpu.found_via for gpu in found.gpus] == ["libcuda"]
    assert not found.problems


def test_a_missing_architecture_is_read_from_the_product_name() -> None:
    found = detect(says(gpu(0, "", "GeForce GTX 1080 Ti")), must_not_be_asked)
    assert [gpu.arch for gpu in found.gpus] == ["61"]


@pytest.mark.parametrize("name", ["Unheard of", "GeForce GTX 860M"])  # the latter is two chips
def test_a_missing_architecture_is_asked_of_the_next(name: str) -> None:
    found = detect(says(gpu(0, "", name)), ABSENT, says(gpu(0, "87", via="device tree")))
    assert [(gpu.arch, gpu.found_via) for gpu in found.gpus] == [("87", "device tree")]


def test_a_gpu_of_unknown_architecture_is_a_problem_and_no_gpu_to_build_for() -> None:
    found = detect(says(gpu(0, "", "Unheard of"), gpu(1, "61")), ABSENT)
    assert indices(found) == [1]
    assert "Unheard of" in found.problems[0].message
    assert "--arch" in found.problems[0].hint


def test_a_gpu_that_fell_off_the_bus_is_told_beside_those_that_work() -> None:
    found = detect(says(gpu(0), silent=("NVIDIA GPU 1 does not answer: GPU is lost",)))
    assert indices(found) == [0]
    assert "GPU is lost" in found.problems[0].message


def test_only_lost_gpus_are_a_broken_driver() -> None:
    found = detect(says(silent=("NVIDIA GPU 0 does not answer: GPU is lost",)), IDLE, ABSENT)
    assert [problem.message for problem in found.problems] == [
        "the NVIDIA driver is broken: NVIDIA GPU 0 does not answer: GPU is lost"
    ]


# --- CUDA_VISIBLE_DEVICES ----------------------------------------------------------------------

THREE = says(gpu(0), gpu(1), gpu(2))


@pytest.mark.parametrize(
    ("mask", "seen"),
    [
        ("0", [0]),
        ("2,0", [2, 0]),
        (" 1 , 2 ", [1, 2]),
        ("0,2,-1,1", [0, 2]),  # the example of the CUDA programming guide
        ("0,3,1", [0]),
        ("1,oops,2", [1]),
        ("1st,+2", [1, 2]),
        (UUIDS[0], [0]),
        ("GPU-8932f937", [0]),
        ("GPU-1111,GPU-8945", [2, 1]),
        ("GPU-89", []),  # fits two
        ("GPU-1111,GPU-ffff,GPU-8932", [2]),
        (f"MIG-{UUIDS[1]}/3/0", [1]),
        ("MIG-aaaa", [1]),
        ("MIG-aaaa,MIG-bbbb", [1]),
        ("MIG-cccc,0", []),
        ("", []),
        ("-1", []),
        ("none", []),
        ("1,1", []),
        ("GPU-1111,GPU-1111", []),
    ],
)
def test_cuda_visible_devices_selects_as_cuda_does(mask: str, seen: list[int]) -> None:
    partitions = (("MIG-aaaa-1", 1), ("MIG-bbbb-2", 1))
    found = detect(says(gpu(0), gpu(1), gpu(2), partitions=partitions), mask=mask)
    assert indices(found) == seen
    assert bool(found.problems) == (not seen)


@pytest.mark.parametrize("mask", ["", "-1", "7", "GPU-none"])
def test_all_hidden_is_a_message_of_its_own(mask: str) -> None:
    found = detect(THREE, mask=mask)
    (problem,) = found.problems
    assert f"CUDA_VISIBLE_DEVICES={mask!r} hides all 3 NVIDIA GPUs" in problem.message
    assert "unset CUDA_VISIBLE_DEVICES" in problem.hint
    assert "--arch" in problem.hint


def test_an_index_counts_in_cudas_order_where_that_matters() -> None:
    """By the bus the old card comes first; CUDA puts the fast one first."""
    by_bus = says(gpu(0, "61"), gpu(1, "89"))
    by_cuda = says(gpu(0, "89", via="libcuda"), gpu(1, "61", via="libcuda"), in_cuda_order=True)
    found = detect(by_bus, by_cuda, must_not_be_asked, mask="0")
    assert [(gpu.arch, gpu.found_via) for gpu in found.gpus] == [("89", "libcuda")]


@pytest.mark.parametrize(
    ("mask", "order"), [("0", "PCI_BUS_ID"), ("GPU-8932f937", ""), (None, ""), ("", "")]
)
def test_nvml_is_enough_where_the_order_is_no_question(mask: str | None, order: str) -> None:
    by_bus = says(gpu(0, "61"), gpu(1, "89"))
    found = detect(by_bus, must_not_be_asked, mask=mask, CUDA_DEVICE_ORDER=order)
    assert indices(found) == {"0": [0], "GPU-8932f937": [0], None: [0, 1], "": []}[mask]


def test_the_order_of_the_bus_has_to_do_where_libcuda_fails() -> None:
    by_bus = says(gpu(0, "61"), gpu(1, "89"))
    found = detect(by_bus, raises(Broken("bad")), ABSENT, ABSENT, mask="0")
    assert [gpu.arch for gpu in found.gpus] == ["61"]


@given(st.text(st.characters(exclude_characters="\0")), st.integers(0, 3))
@example("0,1,2", 3)
@example("²", 1)
def test_any_mask_selects_some_gpus_each_once(mask: str, count: int) -> None:
    found = detect(says(*(gpu(i) for i in range(count))), mask=mask)
    assert len(set(indices(found))) == len(found.gpus) <= count
    assert found.gpus or found.problems


@given(st.permutations(range(3)), st.integers(0, 3))
def test_any_list_of_valid_indices_is_seen_in_its_order(order: Sequence[int], count: int) -> None:
    chosen = list(order[:count])
    assert indices(detect(THREE, mask=",".join(map(str, chosen)))) == chosen


# --- why there is none -------------------------------------------------------------------------


def only_problem(detection: Detection) -> tuple[str, str]:
    assert not detection.gpus
    assert detection.driver_cuda is None
    (problem,) = detection.problems
    assert "--arch" in problem.hint
    return problem.message, problem.hint


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


CARD = {
    "sys/bus/pci/devices/0000:00:02.0/vendor": "0x8086\n",
    "sys/bus/pci/devices/0000:00:02.0/class": "0x030000\n",
    "sys/bus/pci/devices/0000:01:00.0/vendor": "0x10de\n",
    "sys/bus/pci/devices/0000:01:00.0/class": "0x030200\n",
}
SOUND_OF_A_CARD = {
    "sys/bus/pci/devices/0000:01:00.1/vendor": "0x10de\n",
    "sys/bus/pci/devices/0000:01:00.1/class": "0x040300\n",
}
KERNEL = {
    "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.261.03  "
    "Thu Jun 12 2025\nGCC version:  gcc version 12.2.0\n"
}


def test_no_driver(tmp_path: Path) -> None:
    message, hint = only_problem(detect(ABSENT, ABSENT, root=write(tmp_path, SOUND_OF_A_CARD)))
    assert message == "there is no NVIDIA driver on this machine"
    assert "nvidia.com/drivers" in hint


def test_no_driver_for_a_gpu_that_is_there(tmp_path: Path) -> None:
    message, _ = only_problem(detect(ABSENT, ABSENT, root=write(tmp_path, CARD)))
    assert message == "there is an NVIDIA GPU, but no NVIDIA driver on this machine"


@pytest.mark.parametrize("interfaces", [(IDLE, IDLE, ABSENT), (says(), IDLE), (says(),)])
def test_a_driver_without_a_device(interfaces: Sequence[Interface], tmp_path: Path) -> None:
    message, hint = only_problem(detect(*interfaces, root=write(tmp_path, SOUND_OF_A_CARD)))
    assert message == "there is an NVIDIA driver, but no NVIDIA GPU that it could serve"
    assert "--gpus all" in hint


def test_a_driver_that_runs_without_the_card_that_is_there(tmp_path: Path) -> None:
    """As where the card is given to a virtual machine."""
    message, _ = only_problem(detect(says(), IDLE, root=write(tmp_path, CARD | KERNEL)))
    assert message == "there is an NVIDIA driver, but no NVIDIA GPU that it could serve"


def test_a_driver_that_is_installed_but_does_not_run(tmp_path: Path) -> None:
    message, hint = only_problem(detect(IDLE, IDLE, ABSENT, root=write(tmp_path, CARD)))
    assert "broken" in message
    assert "does not serve" in message
    assert "modprobe nvidia" in hint


def test_a_container_without_the_drivers_libraries(tmp_path: Path) -> None:
    message, hint = only_problem(detect(ABSENT, ABSENT, root=write(tmp_path, KERNEL | CARD)))
    assert "version 535.261.03 runs in the kernel, but its libraries cannot be found" in message
    assert "--gpus all" in hint


def test_a_broken_driver_outweighs_what_the_others_say() -> None:
    mismatch = raises(Broken("NVML says: Driver/library version mismatch", code="NVML 18"))
    message, hint = only_problem(detect(mismatch, IDLE, says(), ABSENT))
    assert message == ("the NVIDIA driver is broken: NVML says: Driver/library version mismatch")
    assert "restart" in hint


def test_a_failure_nobody_knows_still_gets_a_hint() -> None:
    _, hint = only_problem(detect(raises(Broken("weird", code="NVML 777"))))
    assert "reinstall the driver" in hint


@pytest.mark.parametrize("interface", [ABSENT, IDLE])
def test_under_wsl_the_cure_is_in_windows(interface: Interface, tmp_path: Path) -> None:
    (tmp_path / "usr/lib/wsl/lib").mkdir(parents=True)
    _, hint = only_problem(detect(interface, root=tmp_path))
    assert "in Windows" in hint


# --- whether there is anything to mend ------------------------------------------------------------


@pytest.mark.parametrize("interface", [ABSENT, IDLE, says()])
def test_libraries_without_hardware_are_no_sign_of_a_gpu(
    interface: Interface, tmp_path: Path
) -> None:
    assert detect(interface, root=tmp_path).absent


@pytest.mark.parametrize("interface", [ABSENT, IDLE, says()])
def test_a_card_is(interface: Interface, tmp_path: Path) -> None:
    plug(tmp_path, vendor="0x10de")
    assert not detect(interface, root=tmp_path).absent


def test_a_driver_that_fails_is(tmp_path: Path) -> None:
    assert not detect(raises(Broken("bad")), root=tmp_path).absent
