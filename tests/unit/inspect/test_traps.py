"""Machine code is written here word by word, as read from the output of nvcc 11.8 and 13.0."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from llamabuild.inspect import cubin, ptx, traps
from llamabuild.inspect.image import Damaged

MESSAGE = b"%s:%d: ERROR: CUDA kernel %s has no device code compatible with CUDA arch %d.\n"
OTHER = b"the argument is negative: %d\n"

# 128 bits: (operation, scheduling and the rest)
MOVE = (0x00000A0000017A02, 0x000FC40000000F00)
TRAP = (0x000000040000795C, 0x000FEA0000300000)
TRAP_UNLESS_P0 = (0x000000040000895C, 0x000FEA0000300000)
CALL = (0x0000000002007343, 0x001FEA0003C00000)
EXIT = (0x000000000000794D, 0x000FEA0003800000)
EXIT_UNLESS_P0 = (0x000000000000894D, 0x000FEA0003800000)
BRANCH_UNLESS_P0 = (0x00000000002C9947, 0x000FEA0003800000)
PAUSE = (0x000000040000795C, 0x000FEA0000100000)  # another kind of BPT
READS_SLOT_8 = (0x0100020000047AB9, 0x000FE20000000A00)  # ULDC.64 UR4, c[0x4][0x8]
READS_SLOT_8_BLACKWELL = (0x01000100FF0477AC, 0x000FE20008000A00)  # LDCU.64 UR4, c[0x4][0x8]
READS_SLOT_OF_R0 = (0x0100020000087B82, 0x000E240000000A00)  # LDC.64 R8, c[0x4][R0+0x8]
READS_BANK_0 = (0x0000020000047AB9, 0x000FE20000000A00)

# 64 bits, three of them after each word of scheduling
OLD_MOVE = 0x4C98078000870001
OLD_TRAP = 0xE3A00000001000C0
OLD_CALL = 0xE220000000000040
OLD_EXIT = 0xE30000000007000F
OLD_EXIT_UNLESS_P0 = 0xE30000000008000F
OLD_BRANCH = 0xE24000002288000F


def new(*words: tuple[int, int]) -> bytes:
    return b"".join(struct.pack("<QQ", *word) for word in words)


def old(*words: int, scheduling: int = 0x001FC400FE2007F6) -> bytes:
    padded = [*words, *[0x50B0000000070F00] * (-len(words) % 3)]
    rows = [(scheduling, *padded[at : at + 3]) for at in range(0, len(padded), 3)]
    return b"".join(struct.pack("<4Q", *row) for row in rows)


@pytest.mark.parametrize("arch", [70, 75, 80, 86, 89, 90, 100, 103, 110, 120, 121])
@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        (new(MOVE, EXIT), "none"),
        (new(MOVE, TRAP, EXIT), "trapped"),
        (new(MOVE, CALL, TRAP, EXIT), "trapped"),
        (new(MOVE, EXIT_UNLESS_P0, TRAP, EXIT), "suspect"),
        (new(MOVE, BRANCH_UNLESS_P0, TRAP, MOVE, EXIT), "suspect"),
        (new(MOVE, TRAP_UNLESS_P0, EXIT), "suspect"),
        (new(MOVE, PAUSE, EXIT), "none"),
        (new(MOVE, TRAP, EXIT)[8:] + bytes(8), "none"),
        (b"", "none"),
        (new(TRAP)[:8], "none"),
    ],
    ids=[
        "no trap",
        "at once",
        "after a call",
        "past an exit",
        "past a branch",
        "under a predicate",
        "pause",
        "across two instructions",
        "empty",
        "cut short",
    ],
)
def test_volta_and_later(arch, code, verdict):
    assert traps.verdict(memoryview(code), arch) == verdict


@pytest.mark.parametrize("arch", [50, 52, 53, 60, 61, 62])
@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        (old(OLD_MOVE, OLD_EXIT), "none"),
        (old(OLD_MOVE, OLD_TRAP, OLD_EXIT), "trapped"),
        (old(OLD_MOVE, OLD_CALL, OLD_TRAP, OLD_EXIT), "trapped"),
        (old(OLD_MOVE, OLD_MOVE, OLD_MOVE, OLD_MOVE, OLD_TRAP), "trapped"),
        (old(OLD_EXIT_UNLESS_P0, OLD_TRAP, OLD_EXIT), "suspect"),
        (old(OLD_BRANCH, OLD_TRAP, OLD_EXIT), "suspect"),
        (old(OLD_MOVE, scheduling=OLD_TRAP), "none"),
    ],
)
def test_maxwell_and_pascal(arch, code, verdict):
    assert traps.verdict(memoryview(code), arch) == verdict


def test_kepler_is_unknown():
    assert traps.verdict(memoryview(old(OLD_MOVE)), 35) == "unknown"


def verdicts(found: Any) -> dict[str, str]:
    return {kernel.name: kernel.trap for kernel in found[0]}


LOOP = old(OLD_EXIT_UNLESS_P0, OLD_MOVE, OLD_CALL, OLD_TRAP, OLD_BRANCH, OLD_EXIT)


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        (MESSAGE, "trapped"),
        (b"ERROR: ggml-cuda was compiled without support for the current GPU architecture.\n",
         "trapped"),
        (OTHER, "suspect"),
        (b"", "suspect"),
    ],
)  # fmt: skip
def test_the_message_tells_a_missing_path_from_a_checked_argument(forge, text, verdict):
    code = forge.code({"k": LOOP, "clean": old(OLD_EXIT)}, text=text, referred=("k",))
    assert verdicts(cubin.kernels(memoryview(code), 60)) == {"k": verdict, "clean": "none"}


def test_only_the_kernel_that_refers_to_the_message_is_trapped(forge):
    code = forge.code({"asserts": LOOP, "gives_up": LOOP}, text=MESSAGE, referred=("gives_up",))
    assert verdicts(cubin.kernels(memoryview(code), 60)) == {
        "asserts": "suspect",
        "gives_up": "trapped",
    }


@pytest.mark.parametrize(
    ("reads", "verdict"),
    [
        (READS_SLOT_8, "trapped"),
        (READS_SLOT_8_BLACKWELL, "trapped"),
        (READS_SLOT_OF_R0, "suspect"),
        (READS_BANK_0, "suspect"),
        (MOVE, "suspect"),
    ],
)
def test_the_message_found_through_the_constant_bank(forge, reads, verdict):
    code = forge.code(
        {"k": new(EXIT_UNLESS_P0, reads, CALL, TRAP, EXIT)}, text=MESSAGE, through_constants=True
    )
    assert verdicts(cubin.kernels(memoryview(code), 90)) == {"k": verdict}


HEADER = b"//\n// Generated\n//\n.version 7.8\n.target sm_60\n.address_size 64\n"


def text_of(message: bytes) -> bytes:
    numbers = ", ".join(str(number) for number in message + b"\0")
    return f".global .align 1 .b8 $str[{len(message) + 1}] = {{{numbers}}};\n".encode()


@pytest.mark.parametrize(
    ("body", "verdict"),
    [
        (b"ret;", "none"),
        (b"mov.u32 %r1, %tid.x;\n trap;\n ret;", "trapped"),
        (b"{ .reg .b32 t; trap; }\n ret;", "trapped"),
        (b"@%p1 bra $L__BB0_2;\n trap;\n$L__BB0_2:\n ret;", "suspect"),
        (b"@%p1 trap;\n ret;", "suspect"),
        (b"// trap;\n ret;", "none"),
        (b"/* trap; */ ret;", "none"),
        (b"mov.u32 %r1, trap_counter;\n ret;", "none"),
    ],
)
def test_ptx_is_read_as_text(body, verdict):
    text = (
        HEADER + b".visible .entry k(\n .param .u64 p\n)\n.maxntid 256, 1, 1\n{\n" + body + b"\n}"
    )
    (kernel,) = ptx.kernels(memoryview(text))
    assert (kernel.name, kernel.trap) == ("k", verdict)


@pytest.mark.parametrize(("message", "verdict"), [(MESSAGE, "trapped"), (OTHER, "suspect")])
def test_ptx_that_refers_to_a_message(message, verdict):
    text = (
        HEADER
        + text_of(message)
        + b".entry k() {\n@%p1 bra $L;\nmov.u64 %rd1, $str;\n"
        + b"call.uni (r), vprintf, (a, b);\ntrap;\n$L:\nret;\n}"
    )
    assert [kernel.trap for kernel in ptx.kernels(memoryview(text))] == [verdict]


def test_a_ptx_function_that_was_not_inlined_gives_up_for_its_callers():
    text = (
        HEADER
        + text_of(MESSAGE)
        + b".extern .func (.param .b32 r) vprintf (.param .b64 a, .param .b64 b);\n"
        + b".func (.param .b32 r) give_up(.param .b64 a) { mov.u64 %rd1, $str; trap; ret; }\n"
        + b".func between() { call.uni (r), give_up, (a); ret; }\n"
        + b".visible .entry guilty() { @%p1 bra $L; call.uni between, (); $L: ret; }\n"
        + b".visible .entry innocent() { call.uni (r), vprintf, (a, b); ret; }\n"
    )
    assert {kernel.name: kernel.trap for kernel in ptx.kernels(memoryview(text))} == {
        "guilty": "trapped",
        "innocent": "none",
    }


def test_what_is_no_ptx_is_refused():
    with pytest.raises(Damaged):
        ptx.kernels(memoryview(b"trap; trap;"))
