"""Where the pieces of a CUDA toolkit lie, once the real nvcc is known."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from llamabuild import run
from llamabuild.looking import is_file, is_folder
from llamabuild.memo import Memo
from llamabuild.toolchain.model import Cublas, Machine
from llamabuild.toolchain.programs import NVCC_FLAGS, Unusable, ask, remembered

__all__ = ["TOOLS", "Layout", "find_cublas", "find_driver_stub", "find_pieces", "real_home"]

#: The programs that nvcc calls; it cannot compile without any one of them.
TOOLS = ("nvcc", "cudafe++", "cicc", "ptxas", "fatbinary", "nvlink")

#: Where drivers put libcuda.so and libcuda.so.1: the packages of Debian, Ubuntu, Fedora and Arch;
#: WSL's own folder; JetPack's two.
DRIVER_FOLDERS = (
    "usr/lib/{multiarch}",
    "usr/lib64",
    "usr/lib",
    "usr/lib/wsl/lib",
    "usr/lib/{multiarch}/nvidia",
    "usr/lib/{multiarch}/tegra",
)


@dataclass(frozen=True)
class Layout:
    """The folders in which one toolkit's pieces may lie, in the order in which to look.

    ``kind`` says who installed it, and so who can mend it.
    """

    kind: str
    root: Path
    tool_dirs: tuple[Path, ...]
    include_dirs: tuple[Path, ...]
    library_dirs: tuple[Path, ...]
    libdevice_dirs: tuple[Path, ...]

    @classmethod
    def of(cls, home: Path, machine: Machine) -> Layout:
        """The layout of the toolkit whose real nvcc lies in ``home``.

        Debian spreads its package over ``/usr``; everybody else keeps ``bin``, ``nvvm``,
        ``include`` and ``lib`` together, with or without a folder per target machine.
        """
        if home == Path(os.path.realpath(machine.root / "usr/lib/nvidia-cuda-toolkit/bin")):
            usr = machine.root / "usr"
            return cls(
                kind="debian",
                root=home.parent,
                tool_dirs=(home, usr / "bin"),
                include_dirs=(usr / "include",),
                library_dirs=(usr / "lib" / machine.multiarch,),
                libdevice_dirs=(home.parent / "libdevice",),
            )
        top = home.parent
        # Jetson's toolkits call the target aarch64-linux, those for servers sbsa-linux.
        targets = {
            "x86_64": ("x86_64-linux",),
            "aarch64": ("sbsa-linux", "aarch64-linux"),
        }.get(machine.processor, ())
        inside = [top / "targets" / target for target in targets]
        return cls(
            kind=_installer(top),
            root=top,
            # bin/x64 is where CUDA 13 for Windows keeps its libraries.
            tool_dirs=(home, top / "nvvm" / "bin", home / "x64"),
            include_dirs=(*(folder / "include" for folder in inside), top / "include"),
            library_dirs=(
                *(folder / "lib" for folder in inside),
                *(top / name for name in ("lib64", "lib", "lib/x64")),
            ),
            libdevice_dirs=(top / "nvvm" / "libdevice",),
        )

    def places(self, machine: Machine) -> dict[str, list[Path]]:
        """Every piece that a compilation needs, with the paths at which it may lie."""
        runtime = "cudart_static.lib" if machine.system == "windows" else "libcudart_static.a"
        wanted = [
            *((machine.program(tool), tool, self.tool_dirs) for tool in TOOLS),
            ("libdevice.10.bc", "libdevice", self.libdevice_dirs),
            ("cuda_runtime.h", "cuda_runtime.h", self.include_dirs),
            ("cuda_runtime_api.h", "cuda_runtime_api.h", self.include_dirs),
            ("crt/host_config.h", "crt/host_config.h", self.include_dirs),
            (runtime, "cudart_static", self.library_dirs),
        ]
        return {piece: [folder / name for folder in folders] for name, piece, folders in wanted}

    def watched(self, machine: Machine) -> list[Path]:
        """What a description depends on: every place of a piece, and where others may appear."""
        pieces = [path for paths in self.places(machine).values() for path in paths]
        site_packages = [self.root.parent.parent] if self.kind == "wheels" else []
        return [*pieces, *self.include_dirs, *self.library_dirs, *site_packages]

    @property
    def reinstall(self) -> str:
        """How to get a whole toolkit of this kind."""
        return {
            "wheels": "`pip install 'llamabuild[cuda13]'` installs every piece in one version",
            "debian": "`apt install --reinstall nvidia-cuda-toolkit nvidia-cuda-dev`",
            "conda": "`conda install -c conda-forge cuda-nvcc cuda-cudart-dev cuda-cudart-static`",
        }.get(self.kind, "install this toolkit again, or name another with --toolkit")


def _installer(top: Path) -> str:
    if top.parent.name == "nvidia" and re.fullmatch(r"cu\d+", top.name):
        return "wheels"
    if is_folder(top / "conda-meta") or (
        top.name == "Library" and is_folder(top / "../conda-meta")
    ):
        return "conda"
    return "other"


def real_home(nvcc: Path, found_via: str, environ: Mapping[str, str], memo: Memo) -> Path:
    """Return the folder of the compiler behind ``nvcc``.

    ``nvcc`` may be a link, a wrapper script (Debian's ``/usr/bin/nvcc``) or a compiler cache. The
    real one has ``nvcc.profile`` beside it; a wrapper is asked, because ``--dryrun`` prints where
    the compiler that it calls is at home.

    :raises Unusable: it cannot be asked, or does not say.
    """
    real = Path(os.path.realpath(nvcc))
    if is_file(real.parent / "nvcc.profile"):
        return real.parent
    question = f"where the nvcc behind a wrapper lives; PATH={environ.get('PATH')}"
    answer = remembered(
        memo,
        question,
        [nvcc, real],
        lambda: _ask_home(nvcc, environ),
        found_via=found_via,
    )
    return Path(os.path.realpath(answer))


def _ask_home(nvcc: Path, environ: Mapping[str, str]) -> str:
    # A dry run reads no file, but nvcc refuses to make one while no host compiler is on PATH.
    text = ask([nvcc, "--dryrun", "any.cu"], run.environment(environ, unset=NVCC_FLAGS))
    match = re.search(r"^#\$ _HERE_=(.+?)\s*$", text, re.MULTILINE)
    if match is None:
        raise Unusable("is a wrapper, and does not say which nvcc it calls")
    return match[1]


def find_pieces(layout: Layout, machine: Machine) -> dict[str, Path]:
    """Return where each piece lies that a compilation cannot do without.

    :raises Unusable: some are missing.
    """
    places = layout.places(machine)
    found = {piece: _existing(paths) for piece, paths in places.items()}
    missing = [places[piece][0].name for piece, path in found.items() if path is None]
    if missing:
        raise Unusable(f"lacks {', '.join(missing)}", layout.reinstall)
    return {piece: path for piece, path in found.items() if path is not None}


def find_cublas(layout: Layout, machine: Machine, memo: Memo) -> Cublas | None:
    """Return cuBLAS, if this toolkit has both its headers and a library to link."""
    header = _first("cublas_v2.h", layout.include_dirs)
    numbers = _first("cublas_api.h", layout.include_dirs)
    if machine.system == "windows":
        library = _first("cublas.lib", layout.library_dirs)
        runtime = [dll.name for folder in layout.tool_dirs for dll in folder.glob("cublas64_*.dll")]
    else:
        runtime = sorted(
            (
                file.name
                for folder in layout.library_dirs
                for file in folder.glob("libcublas.so.*")
                if re.fullmatch(r"libcublas\.so\.\d+", file.name)
            ),
            key=lambda name: int(name.rpartition(".")[2]),
            reverse=True,
        )
        # The wheels have no link name; the linker takes the library itself just as well.
        library = _first("libcublas.so", layout.library_dirs)
        if library is None and runtime:
            library = _first(runtime[0], layout.library_dirs)
    if header is None or numbers is None or library is None or not runtime:
        return None
    version = memo.recall("cuBLAS version", [numbers], lambda: _cublas_version(numbers))
    return Cublas(str(version), header.parent, library, runtime[0])


def _cublas_version(header: Path) -> str:
    text = header.read_text("utf-8", "replace")
    parts = [re.search(rf"CUBLAS_VER_{part}\s+(\d+)", text) for part in ("MAJOR", "MINOR", "PATCH")]
    return ".".join(part[1] for part in parts if part is not None)


def find_driver_stub(layout: Layout, machine: Machine) -> Path | None:
    """Return a file that ``-lcuda`` can be linked against where no GPU is.

    The toolkit's own stub first, then an installed driver, then the stub of Debian's package,
    which has every function up to CUDA 11.8.
    """
    if machine.system == "windows":
        return _first("cuda.lib", layout.library_dirs)
    own = [folder / "stubs" for folder in layout.library_dirs]
    driver = [
        machine.root / folder.format(multiarch=machine.multiarch) for folder in DRIVER_FOLDERS
    ]
    debian = machine.root / "usr/lib" / machine.multiarch / "stubs"
    return (
        _first("libcuda.so", [*own, *driver])
        or _first("libcuda.so.1", driver)
        or _first("libcuda.so", [debian])
    )


def _first(name: str, folders: Iterable[Path]) -> Path | None:
    return _existing(folder / name for folder in folders)


def _existing(paths: Iterable[Path]) -> Path | None:
    return next((path for path in paths if is_file(path)), None)
