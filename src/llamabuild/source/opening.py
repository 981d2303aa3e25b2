"""Any source that a user names -> one :class:`SourceTree`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamabuild.errors import SourceError
from llamabuild.events import Listener, Note, silent
from llamabuild.memo import Memo
from llamabuild.source import archive, bundled, digest, find, llamafile, shelf, trees, versions
from llamabuild.source.model import SourceTree

if TYPE_CHECKING:
    from zipfile import ZipFile, ZipInfo

__all__ = ["open_source"]

_ACCEPTED = (
    "give a llamafile, a checkout or an archive of llama.cpp, ggml, whisper.cpp or llamafile, "
    "llamafile:VERSION, or pypi:NAME==VERSION"
)
#: A member of a llamafile longer than this is no source.
_LONGEST = 32 << 20


def open_source(
    spec: str,
    *,
    scratch: Path,
    environ: Mapping[str, str],
    cwd: Path,
    memo: Memo,
    mirror: str | None = None,
    notify: Listener = silent,
) -> SourceTree:
    """Find out what ``spec`` is and describe it, ready to be compiled.

    A source that was opened before and has not changed since costs a ``stat`` a file.

    :param spec: a path, ``llamafile:VERSION``, ``pypi:NAME==VERSION``, or ``bundled`` for our own
        kernels.
    :param scratch: folder in the cache for unpacked copies and downloads.
    :param cwd: relative paths start here.
    :param mirror: folder or address of repositories to take ``llamafile:VERSION`` from.
    :raises SourceError: there is no such source, or it cannot be used.
    :raises StoreError: ``scratch`` cannot be written.
    """
    opener = _Opener(spec, scratch, memo, notify)
    try:
        if spec == bundled.BUNDLED:
            return opener.kernels()
        if spec.startswith("pypi:"):
            return opener.distribution(spec.removeprefix("pypi:"), environ)
        if spec.startswith("llamafile:"):
            return opener.release(spec.removeprefix("llamafile:"), environ, cwd, mirror)
        path = _path(spec, environ, cwd)
        return opener.folder(path) if path.is_dir() else opener.file(path)
    except OSError as error:
        raise SourceError(f"{spec} cannot be read: {error.strerror or error}") from error


class _Opener:
    """The ways to open a source, with what they all need."""

    def __init__(self, spec: str, scratch: Path, memo: Memo, notify: Listener) -> None:
        self._spec = spec
        self._scratch = scratch
        self._memo = memo
        self._notify = notify

    def kernels(self) -> SourceTree:
        """Our own kernels."""
        root = bundled.ROOT
        watched = (root / "src", root / "include", *root.glob("src/*"), *root.glob("include/*"))
        answer = self._memo.recall(
            f"kernels {root}", [*_own_files(), *watched], lambda: bundled.describe().to_json()
        )
        return SourceTree.from_json(answer, root=root, origin=self._spec, watched=watched)

    def release(
        self, version: str, environ: Mapping[str, str], cwd: Path, mirror: str | None
    ) -> SourceTree:
        """A tag of llamafile, with the llama.cpp that it patches."""
        from llamabuild.source import release

        tag = release.parse(version)

        def make() -> SourceTree:
            with shelf.staging(self._scratch) as folder:
                top = release.check_out(
                    tag, folder, mirror=mirror, cwd=cwd, environ=environ, notify=self._notify
                )
                tree = self._keep_folder(top)
            # Several releases may share their sources; the tag says which one this is.
            several = tree.version is not None and "-" in tree.version
            return replace(tree, version=tag.removeprefix("v")) if several else tree

        place = f" of {cwd / mirror}" if mirror else ""
        return self._copied(f"llamafile {tag}{place}", (), make)

    def distribution(self, name: str, environ: Mapping[str, str]) -> SourceTree:
        """A source archive on the package index."""
        from llamabuild.source import index, pipconfig

        path = index.archive(
            index.parse(name),
            pipconfig.read(environ),
            scratch=self._scratch,
            memo=self._memo,
            notify=self._notify,
        )
        return self._copied(f"copy of {path}", [path], lambda: self._keep_archive(path))

    def file(self, path: Path) -> SourceTree:
        """A llamafile, or an archive of a checkout."""
        if archive.kind(path) is None:
            raise _no_archive(path)
        make = partial(self._keep_archive, path)
        return self._copied(f"copy of {path}", [path], make, watched=(path,))

    def folder(self, root: Path) -> SourceTree:
        """A checkout, compiled from where it is; or a llamafile's files, copied into one folder."""
        if style := llamafile.looks_classic(root):
            read = _reader(root, style)
            watched = (root, *(_place(root, style, name) for name in llamafile.classic_names()))
            make = partial(self._keep_classic, read)
            return self._copied(f"copy of {root}", watched, make, watched=watched)
        if newest := find.newest_unpacked(root):
            return self.folder(newest)  # llamafile's folder for all its releases was named
        layout = trees.locate(root, self._spec)
        names = (*layout.folders, *layout.files)
        watched = (*(root / name for name in names), *versions.read_from(root))
        answer = self._memo.recall(
            f"tree {root}", [*_own_files(), *watched], lambda: self._describe(layout).to_json()
        )
        return SourceTree.from_json(answer, root=root, origin=self._spec, watched=watched)

    def _copied(
        self,
        question: str,
        identified_by: Sequence[Path],
        make: Callable[[], SourceTree],
        *,
        watched: tuple[Path, ...] = (),
    ) -> SourceTree:
        """Recall what was copied; copy it if that is missing or damaged."""
        known = self._memo.recall(
            question, [*_own_files(), *identified_by], lambda: make().to_json()
        )
        if not shelf.intact(self._scratch, known["digest"], tuple(known["files"]), self._memo):
            self._notify(Note("detail", f"the copy of {self._spec} in the cache is made again"))
            known = make().to_json()
        root = self._scratch / known["digest"]
        return SourceTree.from_json(known, root=root, origin=self._spec, watched=watched)

    def _describe(self, layout: trees.Layout) -> SourceTree:
        contents = trees.read_all(layout)
        fields = trees.describe(layout, contents, self._spec)
        return self._tree(fields, layout.files, contents)

    def _keep_classic(self, read: llamafile.Reader) -> SourceTree:
        contents = llamafile.collect(read, self._spec)
        fields = llamafile.describe(contents, read, self._spec)
        tree = self._tree(fields, contents, contents)
        with shelf.staging(self._scratch) as folder:
            shelf.write(folder, contents)
            shelf.publish(folder, tree.files, self._scratch, tree.digest)
        return tree

    def _keep_archive(self, path: Path) -> SourceTree:
        if archive.kind(path) == "zip":
            with archive.open_zip(path) as opened:
                infos = {info.filename: info for info in archive.members(opened)}
                if llamafile.DEVICE_MEMBER in infos:
                    return self._keep_classic(_member_reader(opened, infos))
            if _is_program(path):
                raise _without_sources(path)
        self._notify(Note("info", f"unpacking {path.name}"))
        with shelf.staging(self._scratch) as folder:
            archive.unpack(path, folder, wanted=trees.unpackable)
            return self._keep_folder(_top(folder))

    def _keep_folder(self, root: Path) -> SourceTree:
        """Keep what matters of a checkout in a folder that was lent, and will be gone."""
        if style := llamafile.looks_classic(root):
            return self._keep_classic(_reader(root, style))
        tree = self._describe(trees.locate(root, self._spec))
        shelf.publish(root, tree.files, self._scratch, tree.digest)
        return tree

    def _tree(
        self, fields: Mapping[str, Any], names: Iterable[str], contents: Mapping[str, bytes]
    ) -> SourceTree:
        value = digest.of_contents(contents)
        root = self._scratch / value
        return SourceTree(root=root, files=tuple(names), digest=value, origin=self._spec, **fields)


def _path(spec: str, environ: Mapping[str, str], cwd: Path) -> Path:
    """The file or folder that the user means."""
    if not spec.strip():
        raise SourceError("the source has no name", hint=_ACCEPTED)
    if "://" in spec:
        raise SourceError(
            f"{spec} is an address, and addresses are not downloaded",
            hint="download it and give the file, or use pypi:NAME==VERSION",
        )
    home = environ.get("HOME") or environ.get("USERPROFILE") or ""
    named = Path(home + spec[1:]) if home and spec.split("/", maxsplit=1)[0] == "~" else Path(spec)
    path = cwd / named
    if path.is_dir() or path.is_file():
        return path
    if path.exists():
        raise SourceError(f"{path} is neither a file nor a folder", hint=_ACCEPTED)
    raise SourceError(f"{path} does not exist", hint=_similar(path) or _ACCEPTED)


def _similar(path: Path) -> str:
    import difflib

    if not path.parent.is_dir():
        return ""
    names = [entry.name for entry in path.parent.iterdir()]
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"did you mean {path.parent / close[0]}?" if close else ""


def _place(folder: Path, style: str, member: str) -> Path:
    return folder / (member if style == "checkout" else Path(member).name)


def _reader(folder: Path, style: str) -> llamafile.Reader:
    def read(member: str) -> bytes | None:
        path = _place(folder, style, member)
        return trees.read_file(path) if path.is_file() else None

    return read


def _member_reader(opened: ZipFile, infos: Mapping[str, ZipInfo]) -> llamafile.Reader:
    def read(member: str) -> bytes | None:
        info = infos.get(member)
        return None if info is None else archive.read_member(opened, info, _LONGEST)

    return read


def _top(folder: Path) -> Path:
    """The folder inside which everything of an archive lies: most have one at the top."""
    entries = list(folder.iterdir())
    return _top(entries[0]) if len(entries) == 1 and entries[0].is_dir() else folder


def _is_program(path: Path) -> bool:
    """Whether something stands before the ZIP: a llamafile begins with its program."""
    with path.open("rb") as file:
        return file.read(2) != b"PK"


def _without_sources(path: Path) -> SourceError:
    return SourceError(
        f"{path} carries no CUDA sources: llamafile 0.10 and later have none inside",
        hint="give a checkout of llamafile after `make setup`, or a llamafile 0.6 to 0.9.3",
    )


def _no_archive(path: Path) -> SourceError:
    with path.open("rb") as file:
        start = file.read(4)
    if not start:
        return SourceError(f"{path} is empty", hint=_ACCEPTED)
    if start == b"GGUF":
        return SourceError(f"{path} is a model's weights, not a source", hint=_ACCEPTED)
    if start.startswith((b"PK", b"MZ", b"\x7fELF", b"#!")):
        return SourceError(
            f"{path} has no ZIP directory at its end: it is no llamafile, or was cut off",
            hint="if it is a download, get it again and compare its size with the original's",
        )
    return SourceError(f"{path} is no archive and no llamafile", hint=_ACCEPTED)


@cache
def _own_files() -> tuple[Path, ...]:
    """Code and tables of this room: its answers may change when they do."""
    return tuple(
        sorted(path for path in Path(__file__).parent.iterdir() if path.suffix in (".py", ".toml"))
    )
