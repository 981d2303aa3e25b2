"""The reader of models' heads, on sound, strange and hostile files."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamabuild.advise import gguf, read_model
from llamabuild.errors import LlamabuildError, SourceError, UsageError

from .conftest import LLAMA, WEIGHTS, Forge, llama, tensors

ONE = [("output.weight", (32, 4), 2, 0)]


def refused(path: Path) -> str:
    with pytest.raises(SourceError) as caught:
        read_model(path)
    assert caught.value.hint
    return caught.value.message


class TestSound:
    def test_everything_of_a_model(self, tmp_path: Path) -> None:
        model = read_model(llama(tmp_path))
        assert model.values["general.architecture"] == "llama"
        assert model.values["llama.block_count"] == 32
        assert model.values["tokenizer.ggml.tokens"] == gguf.Words(1000)
        assert model.values["tokenizer.ggml.scores"] is None  # too long to be kept
        assert len(model.tensors) == 2 + 32 * 8
        assert model.tensors[0].layer is None
        assert model.tensors[9].layer == 1
        assert sum(tensor.weights for tensor in model.tensors) == WEIGHTS
        assert model.member == ""

    @pytest.mark.parametrize(("version", "order"), [(1, "<"), (2, "<"), (3, "<"), (3, ">")])
    def test_every_version(self, tmp_path: Path, version: int, order: str) -> None:
        forge = Forge(tmp_path, version=version, order=order)
        values = {"a.b": 7, "c": 1.5, "d": True, "e": "text", "f": (1, 2), "g": ("x", "y")}
        model = read_model(forge.file(forge.head(values, ONE), 1000))
        assert dict(model.values) == {**values, "g": gguf.Words(2)}
        assert model.values["d"] is True
        (tensor,) = model.tensors
        assert (tensor.weights, tensor.size_bytes) == (128, 4 * 18)

    def test_what_the_reference_writes(self, tmp_path: Path) -> None:
        from gguf import GGMLQuantizationType, GGUFWriter

        path = tmp_path / "reference.gguf"
        writer = GGUFWriter(path, "qwen3")
        writer.add_block_count(2)
        writer.add_head_count_kv([4, 0])
        writer.add_token_list(["a", "b", "c"])
        writer.add_string("long", "x" * 100_000)
        writer.add_tensor("token_embd.weight", np.zeros((3, 64), np.float32))
        blocks = np.zeros((2, 144), np.uint8)
        writer.add_tensor("blk.0.q.weight", blocks, raw_dtype=GGMLQuantizationType.Q4_K)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        model = read_model(path)
        assert model.values["qwen3.attention.head_count_kv"] == (4, 0)
        assert model.values["tokenizer.ggml.tokens"] == gguf.Words(3)
        assert len(model.values["long"]) < 5000
        kinds = [(one.name, one.kind and one.kind.name, one.weights) for one in model.tensors]
        assert kinds == [("token_embd.weight", "F32", 192), ("blk.0.q.weight", "Q4_K", 512)]

    def test_a_type_that_is_not_known_is_left_out(self, forge: Forge) -> None:
        rows = [*ONE, ("blk.0.x.weight", (256, 4), 99, 0)]
        model = read_model(forge.file(forge.head({}, rows), 1000))
        assert [tensor.size_bytes for tensor in model.tensors] == [72, 0]
        assert model.notes == ("1 tensors are of types that are not known here, and not counted",)

    def test_one_part_of_several(self, forge: Forge) -> None:
        model = read_model(forge.file(forge.head({"split.count": 3}, ONE), 1000))
        assert "one of 3 parts" in model.notes[0]

    def test_a_file_of_gigabytes_is_not_read(self, forge: Forge) -> None:
        head = forge.head({}, [("output.weight", (1 << 18, 1 << 14), 8, 0)])
        assert read_model(forge.file(head, 5 << 30)).tensors[0].size_bytes > 4 << 30


class TestLlamafile:
    def pack(self, folder: Path, members: dict[str, bytes], how: int = zipfile.ZIP_STORED) -> Path:
        path = folder / "some.llamafile"
        path.write_bytes(b"MZqFpD=' the program \n" * 4000)
        with zipfile.ZipFile(path, "a", how) as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        return path

    def test_the_model_inside(self, forge: Forge) -> None:
        small, large = forge.head({"a": 1}, ONE), forge.head({"a": 2}, ONE)
        members = {
            "mmproj.gguf": small + bytes(100),
            ".args": b"-m\nmodel.gguf\n",
            "model.gguf": large + bytes(1000),
        }
        model = read_model(self.pack(forge.folder, members))
        assert (model.member, model.values["a"]) == ("model.gguf", 2)

    def test_one_that_is_cut_off_inside(self, forge: Forge) -> None:
        head = forge.head({}, [("output.weight", (1 << 20,), 0, 0)])
        path = self.pack(forge.folder, {"model.gguf": head + bytes(1000), "more": bytes(5 << 20)})
        message = refused(path)
        assert "model.gguf in" in message
        assert f"it has {len(head) + 1000:,} of " in message

    def test_a_head_that_is_cut_off_inside(self, forge: Forge) -> None:
        """What follows in the llamafile is not taken for the rest of it."""
        path = self.pack(forge.folder, {"model.gguf": SMALL[:90], "more": bytes(1000)})
        assert "cut off within its head" in refused(path)

    def test_one_that_lost_its_end(self, forge: Forge) -> None:
        path = self.pack(forge.folder, {"model.gguf": forge.head({}, ONE) + bytes(1000)})
        path.write_bytes(path.read_bytes()[:-50])
        assert "neither a GGUF file nor a llamafile" in refused(path)

    def test_a_compressed_one(self, forge: Forge) -> None:
        members = {"model.gguf": forge.head({}, ONE) + bytes(1000)}
        assert "is compressed" in refused(self.pack(forge.folder, members, zipfile.ZIP_DEFLATED))

    def test_none_inside(self, forge: Forge) -> None:
        assert "has no model inside" in refused(self.pack(forge.folder, {".args": b""}))

    def test_a_directory_that_points_elsewhere(self, forge: Forge) -> None:
        path = self.pack(forge.folder, {"model.gguf": forge.head({}, ONE) + bytes(1000)})
        data = path.read_bytes()
        path.write_bytes(data.replace(b"PK\3\4", b"PK\3\5"))
        assert "is wrong about model.gguf" in refused(path)


class TestBad:
    def test_no_file(self, tmp_path: Path) -> None:
        for path in (tmp_path / "none.gguf", tmp_path):
            with pytest.raises(UsageError):
                read_model(path)

    @pytest.mark.parametrize("content", [b"", b"GG", b"\x7fELF" + bytes(100), b"hello\n" * 100])
    def test_something_else(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "model.gguf"
        path.write_bytes(content)
        assert "neither a GGUF file nor a llamafile" in refused(path)

    @pytest.mark.parametrize("magic", [b"lmgg", b"fmgg", b"tjgg", b"algg"])
    def test_a_model_from_before_gguf(self, tmp_path: Path, magic: bytes) -> None:
        path = tmp_path / "model.bin"
        path.write_bytes(magic + bytes(100))
        assert "before August 2023" in refused(path)

    def test_cut_off_among_the_weights(self, forge: Forge) -> None:
        head = forge.head(LLAMA, tensors())
        message = refused(forge.file(head, 10**8))
        assert "cut off: it has 100,000,000 of " in message

    @pytest.mark.parametrize("alignment", [32, 4096])
    def test_weights_begin_where_the_alignment_says(self, forge: Forge, alignment: int) -> None:
        head = forge.head({"general.alignment": alignment}, ONE)
        end = -(-len(head) // alignment) * alignment + 72
        assert read_model(forge.file(head, end)).tensors
        assert "cut off" in refused(forge.file(head, end - 1))

    @pytest.mark.parametrize(
        ("head", "words"),
        [
            (lambda f: f.head({}, [], pairs=1 << 40), "1,099,511,627,776 values"),
            (lambda f: f.head({}, [], count=1 << 40), "1,099,511,627,776 tensors"),
            (lambda f: f.head({}, [], pairs=3) + bytes(64), "twice"),
            (lambda f: f.head({}), "holds no weights: it is a vocabulary"),
            (lambda f: f.head({"a": 1, "b": 2}, ONE).replace(b"b", b"a"), "says 'a' twice"),
            (lambda f: f.head({}, [("w", (1 << 40, 1 << 40), 0, 0)]), "weights"),
            (lambda f: f.head({}, [("w", (1,) * 5, 0, 0)]), "5 dimensions of 'w'"),
            (lambda f: f.head({}, [], pairs=1) + f.wide(1 << 20), "a key of 1,048,576 bytes"),
            (lambda f: f.head({}, [], pairs=1) + f.text("k") + f.pack("I", 77), "of kind 77"),
            (
                lambda f: f.head({}, [], pairs=1) + f.text("k") + f.pack("IIQ", 9, 9, 1),
                "values of kind 9",
            ),
            (
                lambda f: f.head({}, [], pairs=1) + f.text("k") + f.pack("IIQ", 9, 8, 1 << 40),
                "values in a list",
            ),
            (
                lambda f: f.head({}, [], pairs=1) + f.text("k") + f.pack("IQ", 8, 1 << 62),
                "cut off within its head",
            ),
            (lambda f: f.head({"general.alignment": 0}, ONE), "alignment is 0"),
            (lambda f: f.head({"general.alignment": "x"}, ONE), "alignment is 'x'"),
            (lambda f: Forge(f.folder, version=4).head({}, ONE), "its version is 4"),
        ],
    )
    def test_a_head_that_cannot_be(self, forge: Forge, head: Any, words: str) -> None:
        assert words in refused(forge.file(head(forge), 4096))

    def test_a_head_without_end(self, forge: Forge, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gguf, "LONGEST_HEAD", 1 << 16)
        head = forge.head({}, [], pairs=1) + forge.text("k") + forge.pack("IIQ", 9, 10, 1 << 20)
        assert "a head of more than" in refused(forge.file(head, 1 << 30))

    def test_one_that_shrinks_while_it_is_read(self) -> None:
        with pytest.raises(gguf._Damaged, match="cut off within its head"):
            gguf._Reader(io.BytesIO(SMALL[:90]), 1000).read()

    def test_one_that_may_not_be_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = llama(tmp_path)

        def refuse(*_args: object, **_more: object) -> object:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(Path, "open", refuse)
        with pytest.raises(UsageError, match="cannot be read: Permission denied"):
            read_model(path)


SMALL = Forge(Path()).head(
    {
        "general.architecture": "llama",
        "llama.block_count": 2,
        "many": (1, 2, 3),
        "words": ("a", "b"),
        "real": 1.5,
        "yes": True,
    },
    [*ONE, ("blk.0.a.weight", (256, 2), 12, 96)],
)


class TestFuzz:
    """Whatever the bytes are: a model, or an error that a user understands."""

    def read(self, folder: Path, content: bytes) -> None:
        path = folder / "model.gguf"
        path.write_bytes(content)
        try:
            read_model(path)
        except LlamabuildError:
            return

    @pytest.mark.parametrize("length", range(4, len(SMALL)))
    def test_every_beginning_of_a_head_is_cut_off(self, tmp_path: Path, length: int) -> None:
        path = tmp_path / "model.gguf"
        path.write_bytes(SMALL[:length])
        assert "cut off" in refused(path)

    @given(st.data())
    @settings(max_examples=400)
    def test_changed_bytes(
        self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
    ) -> None:
        content = bytearray(SMALL + bytes(1000))
        for _ in range(data.draw(st.integers(1, 4))):
            place = data.draw(st.integers(4, len(SMALL) - 1))
            content[place] = data.draw(st.integers(0, 255))
        self.read(tmp_path_factory.getbasetemp(), bytes(content))

    @given(st.binary(max_size=400), st.sampled_from([1, 2, 3, 0x03000000]))
    def test_anything_behind_the_magic(
        self, tmp_path_factory: pytest.TempPathFactory, rest: bytes, version: int
    ) -> None:
        head = b"GGUF" + version.to_bytes(4, "little")
        self.read(tmp_path_factory.getbasetemp(), head + rest)
