from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from llamabuild.inspect import compare, hosts, page, report
from llamabuild.source import loader_symbols

CARDS = {
    "60": ("Tesla P100",),
    "61": ("GeForce GTX 1080", "P104-100", "Tesla P40"),
    "75": ("GeForce RTX 2080",),
    "gfx1030": ("Radeon RX 6800",),
    "gfx1032": ("Radeon RX 6600",),
}
MESSAGE = b"ERROR: CUDA kernel %s has no device code compatible with CUDA arch %d.\n"
Q8_0 = "_Z13mul_mat_vec_qI10block_q8_0EvPKv"
Q4_0 = "_Z13mul_mat_vec_qI10block_q4_0EvPKv"
NOP = bytes(32)


@pytest.fixture
def shipped(forge):
    """The failure this project exists for, in small: no 6.1, and 6.0 gives up."""
    code = {Q8_0: NOP, Q4_0: NOP, "_Z4copyPf": NOP}
    return forge.read(
        forge.library(
            forge.container(
                forge.entry(forge.code(code, text=MESSAGE, referred=(Q8_0, Q4_0)), arch=60),
                forge.entry(forge.code(code), arch=75),
            ),
            exported=("ggml_cuda_link",),
            needed=("libc.so.6",),
            versions=("GLIBC_2.34",),
        )
    )


def test_the_failure_is_explained_before_it_happens(shipped):
    text = "\n".join(report.explain(shipped, "61", CARDS["61"]))
    assert "6.1 (GTX 1080, P104-100, …)" in text
    assert "runs the code made for 60" in text
    assert "2 of 3 kernels give up" in text
    assert "mul_mat_vec_q<block_q8_0>" in text
    assert "DP4A" in text
    assert "llamabuild --arch 61" in text


def test_a_gpu_on_which_all_is_well(shipped):
    (line,) = report.explain(shipped, "75", CARDS["75"])
    assert "no kernel gives up" in line


def test_code_made_for_the_very_gpu_is_no_reason_to_rebuild(shipped):
    text = "\n".join(report.explain(shipped, "60", ()))
    assert "2 of 3 kernels give up" in text
    assert "Cure" not in text


def test_a_gpu_on_which_nothing_runs(shipped):
    assert report.explain(shipped, "120", ()) == [
        "12.0: nothing in this module runs there",
        "Cure: llamabuild --arch 120 …",
    ]


def test_an_amd_gpu_that_could_pass_for_another(forge, part):
    code = forge.code_object({"k": [0xBF800000, 0xBF810000]})
    bundle = forge.bundle(("hip-amdgcn-amd-amdhsa--gfx1030", code))
    module = forge.read(forge.library(more=(part(".hip_fatbin", 1, bundle),)))
    text = "\n".join(report.explain(module, "gfx1032", CARDS["gfx1032"]))
    assert "HSA_OVERRIDE_GFX_VERSION=10.3.0" in text
    assert "--arch gfx1032" in text
    rows = report.gpu_rows(module, CARDS)
    assert [row[0] for row in rows[1:]] == ["gfx1030", "gfx1032"]
    assert "override 10.3.0" in rows[2][2]


def test_missing_kernels_are_said(forge):
    older, newer = forge.cubin(["_Z4copyPf"]), forge.cubin(["_Z4copyPf", "_Z3mmaPf"])
    unit = forge.container(forge.entry(older, arch=60), forge.entry(newer, arch=75))
    text = "\n".join(report.explain(forge.read(forge.library(unit)), "61", ()))
    assert "1 of the kernels that other GPUs have are missing" in text
    assert "mma" in text
    assert "llamabuild --arch 61" in text


def test_unknown_is_said(forge):
    module = forge.read(forge.library(forge.container(forge.entry(b"no cubin"))))
    assert "unknown" in report.explain(module, "61", ())[0]
    assert "kernels unknown" in "\n".join(report.summary(module))
    assert report.document(module, CARDS)["entries"][0]["trapped"] is None


def test_the_document_has_the_agreed_shape(shipped):
    document = json.loads(json.dumps(report.document(shipped, CARDS)))
    assert document["schema"] == 1
    assert document["format"] == "elf"
    assert document["backend"] == "cuda"
    assert document["flavor"] == "classic"
    assert document["symbols"] == ["ggml_cuda_link"]
    assert document["needed"] == ["libc.so.6"]
    assert document["glibc"] == "2.34"
    assert document["glibcxx"] is None
    first, second = document["entries"]
    assert (first["kind"], first["arch"], first["kernels"], first["trapped"]) == (
        "sass",
        "60",
        3,
        2,
    )
    assert second["trapped"] == 0
    cards = {row["gpu"]: row for row in document["coverage"]}
    assert cards.keys() == {"Tesla P100", *CARDS["61"], "GeForce RTX 2080"}
    seed = cards["GeForce GTX 1080"]
    assert (seed["arch"], seed["runs"], seed["entry"], seed["trapped"]) == ("61", "older", "60", 2)


def test_the_document_can_be_about_the_gpus_that_are_asked_for(shipped):
    asked = {"my card": "61", "8.8": "88", "radeon": "gfx1030"}
    rows = report.document(shipped, CARDS, asked)["coverage"]
    assert [(row["gpu"], row["arch"], row["runs"], row["trapped"]) for row in rows] == [
        ("my card", "61", "older", 2),
        ("8.8", "88", "no", 0),
        ("radeon", "gfx1030", "no", 0),
    ]


def test_one_name_of_two_gpus_is_told_of_twice(shipped):
    cards = {"60": ("TITAN X",), "61": ("TITAN X",)}
    rows = report.document(shipped, cards)["coverage"]
    assert [(row["gpu"], row["arch"]) for row in rows] == [("TITAN X", "60"), ("TITAN X", "61")]


def test_the_name_that_was_asked_for_stands_first():
    names = ("TITAN Xp", "GeForce GTX 1080 Ti", "GeForce GTX 1080", "P104-100")
    assert report.named_first(names, "gtx 1080") == [
        "GeForce GTX 1080",
        "GeForce GTX 1080 Ti",
        "TITAN Xp",
        "P104-100",
    ]
    assert report.named_first(names, "6.1") == list(names)


def test_a_file_without_gpu_code_says_so_for_each_gpu(forge):
    module = forge.read(forge.library())
    assert report.explain(module, "61", ()) == ["6.1: the file holds no code for a GPU"]


def test_translation_units_are_added_up(forge):
    units = b"".join(
        forge.container(forge.entry(forge.cubin([f"a{number}", f"b{number}"]), arch=75))
        for number in range(3)
    )
    (entry,) = report.document(forge.read(forge.library(units)), CARDS)["entries"]
    assert entry["kernels"] == 6


def test_the_table_fits_a_terminal(shipped):
    rows = report.gpu_rows(shipped, CARDS)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    assert sum(widths) + 2 * len(widths) <= 100
    assert [row[4] for row in rows] == ["give up", "2 of 3", "2 of 3", "-"]


def test_the_summary(shipped, forge):
    text = "\n".join(report.summary(shipped))
    assert "60-real: machine code" in text
    assert "3 kernels, 2 of them give up" in text
    assert "glibc 2.34" in text
    assert "no code for a GPU" in "\n".join(report.summary(forge.read(forge.library())))


def test_kernels_by_pattern(shipped):
    assert report.matching(shipped, "q8_0") == [
        ("mul_mat_vec_q<block_q8_0>", {"60-real": "trapped", "75-real": "none"})
    ]
    assert [name for name, _ in report.matching(shipped, "mul_*")] == [
        "mul_mat_vec_q<block_q4_0>",
        "mul_mat_vec_q<block_q8_0>",
    ]
    assert report.matching(shipped, "nothing") == []


@pytest.mark.parametrize(
    ("exported", "undefined", "flavor"),
    [
        (("ggml_cuda_link",), (), "classic"),
        (("ggml_backend_cuda_init", "ggml_nelements"), (), "self-contained"),
        (("ggml_backend_init",), ("ggml_nelements",), "backend-dl"),
        (("ggml_backend_cuda_init",), ("ggml_nelements",), "backend-dl"),
        (("other",), ("ggml_nelements",), None),
    ],
)
def test_the_flavor_is_told_by_the_symbols(forge, exported, undefined, flavor):
    module = forge.read(forge.library(exported=exported, undefined=undefined))
    assert hosts.flavor(module) == flavor


OF_0_9_3 = (*loader_symbols("0.9.3"), "ggml_backend_cuda_log_set_callback", "ggml_abort")
OF_0_8_1 = (*loader_symbols("0.8.1"), "ggml_backend_cuda_get_device_description")
OF_0_10 = (
    "ggml_backend_cuda_init",
    "ggml_backend_cuda_reg",
    "ggml_backend_cuda_get_device_count",
)


@pytest.mark.parametrize(
    ("exported", "undefined", "loadable_by", "words"),
    [
        (OF_0_9_3, (), [("llamafile", "0.8.13", "0.9.3")], "llamafile 0.8.13 to 0.9.3"),
        (
            OF_0_8_1,
            (),
            [
                ("llamafile", "0.7", "0.7"),
                ("llamafile", "0.7.1", "0.7.4"),
                ("llamafile", "0.8", "0.8.1"),
                ("llamafile", "0.8.2", "0.8.4"),
            ],
            "llamafile 0.7, 0.7.1 to 0.7.4, 0.8 to 0.8.1 or 0.8.2 to 0.8.4, the one that",
        ),
        (OF_0_10, (), [("llamafile", "0.10", None)], "llamafile 0.10 and later, if"),
        (OF_0_9_3, ("ggml_nelements",), [], "no released llamafile"),
        (OF_0_10, ("ggml_nelements",), [], "no released llamafile"),
        (OF_0_10[1:], (), [], "no released llamafile"),
        (
            ("ggml_backend_init", "ggml_backend_score", *OF_0_10),
            ("ggml_nelements",),
            [("llama.cpp", None, None)],
            "llama.cpp, beside the ggml libraries",
        ),
    ],
)
def test_who_could_load_it_is_said(forge, exported, undefined, loadable_by, words):
    module = forge.read(forge.library(exported=exported, undefined=undefined))
    found = report.document(module, {})["loadable_by"]
    assert [(host["program"], host["first"], host["last"]) for host in found] == loadable_by
    said = f"exports {len(exported)} functions of ggml, loads into {words}"
    assert said in "\n".join(report.summary(module))


@pytest.mark.parametrize("exported", [("other",), ("llamabuild_multiply",)])
def test_a_module_that_is_not_ggmls_has_no_host(forge, exported):
    module = forge.read(forge.library(exported=exported))
    assert report.document(module, {})["loadable_by"] == []
    assert "loads into" not in "\n".join(report.summary(module))


def test_facts_that_are_known_are_said_and_others_are_null(shipped):
    plain = report.document(shipped, CARDS)
    named = ("build_id", "cxx_runtime", "ggml_version", "ggml_commit")
    assert [plain[name] for name in named] == [None] * 4
    known = replace(
        shipped,
        build_id="c0ffee",
        cxx_runtime="static",
        ggml_version="0.21.0",
        ggml_commit="abc123",
    )
    document = report.document(known, CARDS)
    assert [document[name] for name in named] == ["c0ffee", "static", "0.21.0", "abc123"]
    assert (document["stripped"], document["glibc"]) == (True, "2.34")
    text = "\n".join(report.summary(known))
    for words in ("build id c0ffee", "C++ runtime: static", "ggml 0.21.0, commit abc123"):
        assert words in text
    assert "stripped" in text
    changed = compare(shipped, replace(known, sha256="0"))
    assert "ggml: none, now 0.21.0" in changed.lines
    assert "C++ runtime: none, now static" in changed.lines
    assert changed.document["ggml_version"] == [None, "0.21.0"]


class Table(HTMLParser):
    """Cells by (row, column), and what the page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[tuple[str, str]]] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.fetched += [given[name] for name in ("src", "href") if name in given]
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append((given.get("class") or "", ""))

    def handle_data(self, data):
        if self.rows and self.rows[-1]:
            kind, text = self.rows[-1][-1]
            self.rows[-1][-1] = (kind, (text + data).strip())


def test_the_page_is_a_matrix_that_needs_no_network(shipped):
    table = Table()
    table.feed(page.page(shipped, CARDS))
    assert table.fetched == []
    heads = [text for _, text in table.rows[0]]
    assert heads == ["GPU", "mul_mat_vec_q", "copy"]
    rows = {row[0][1].split()[0]: row[1:] for row in table.rows[1:]}
    assert rows["6.1"] == [("trapped", "✕ 2/2"), ("older", "≈")]
    assert rows["6.0"] == [("left-out", "∅ 2/2"), ("native", "✓")]
    assert rows["7.5"][0] == ("native", "✓")


def test_names_in_the_page_are_escaped(forge):
    content = forge.library(forge.container(forge.entry(forge.cubin(["a&lt;b"]), arch=61)))
    text = page.page(forge.read(content, "<i>.so"), {"61": ("<b>GTX</b>",)})
    assert "<i>" not in text
    assert "<b>GTX" not in text
    assert "<span>a&amp;lt;b</span>" in text


def test_nothing_changed(shipped):
    assert compare(shipped, shipped).lines == ["The files are the same."]


def test_what_a_rebuild_changed(shipped, forge):
    code = {Q8_0: NOP, Q4_0: NOP, "_Z4copyPf": NOP}
    fixed = forge.read(
        forge.library(
            forge.container(
                forge.entry(forge.code(code), arch=60),
                forge.entry(forge.code(code | {"_Z3newv": NOP}), arch=61),
            ),
            exported=("ggml_cuda_link", "ggml_backend_cuda_init"),
            needed=("libc.so.6", "libcuda.so.1"),
            versions=("GLIBC_2.35",),
        ),
        "fixed.so",
    )
    found = compare(shipped, fixed)
    text = "\n".join(found.lines)
    assert "architecture added: 61-real" in text
    assert "architecture removed: 75-real" in text
    assert "60-real: works now: mul_mat_vec_q<block_q8_0>" in text
    assert "exported symbol added: ggml_backend_cuda_init" in text
    assert "needed library added: libcuda.so.1" in text
    assert "glibc: 2.34, now 2.35" in text
    back = "\n".join(compare(fixed, shipped).lines)
    assert "60-real: gives up now: mul_mat_vec_q<block_q8_0>" in back
    document = json.loads(json.dumps(found.document))
    assert document["archs"] == {"added": ["61-real"], "removed": ["75-real"]}
    assert document["trapped"]["60-real"]["removed"] == [
        "mul_mat_vec_q<block_q8_0>",
        "mul_mat_vec_q<block_q4_0>",
    ]
    assert not document["same"]
