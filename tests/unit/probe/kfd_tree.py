"""A machine with AMD GPUs, as Linux' compute driver shows it in files."""

from __future__ import annotations

from pathlib import Path

#: What a node says whose value a test does not care about, in the kernel's order and spelling.
FIELDS = (
    "cpu_cores_count simd_count mem_banks_count caches_count io_links_count p2p_links_count "
    "cpu_core_id_base simd_id_base max_waves_per_simd lds_size_in_kb gds_size_in_kb num_gws "
    "wave_front_size array_count simd_arrays_per_engine cu_per_simd_array simd_per_cu "
    "max_slots_scratch_cu gfx_target_version vendor_id device_id location_id domain "
    "drm_render_minor hive_id num_sdma_engines num_sdma_xgmi_engines num_sdma_queues_per_engine "
    "num_cp_queues max_engine_clk_fcompute local_mem_size fw_version capability debug_prop "
    "sdma_fw_version unique_id num_xcc max_engine_clk_ccompute"
)

GIB = 2**30


class KfdTree:
    """Builds the files below ``root``; nodes are numbered as they are added."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.nodes = root / "sys/class/kfd/kfd/topology/nodes"
        self.nodes.mkdir(parents=True)
        self.count = 0
        self.write("dev/kfd", "")
        self.write("proc/sys/kernel/osrelease", "6.8.0-45-generic\n")

    def write(self, path: str, text: str) -> None:
        """Write one file, with its folders."""
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

    def processor(self) -> KfdTree:
        """Add a node that is a processor, without a GPU."""
        return self._node({"cpu_cores_count": 16, "gpu_id": 0}, name="", memory=((0, 64 * GIB),))

    def gpu(
        self,
        version: int,
        *,
        minor: int = 128,
        memory: int = 16 * GIB,
        name: str = "ip discovery",
        **properties: int,
    ) -> KfdTree:
        """Add a GPU and its render device. ``version``: 100300 for gfx1030; 0 for an old kernel."""
        self.write(f"dev/dri/renderD{minor}", "")
        told = {"simd_count": 128, "vendor_id": 4098, "drm_render_minor": minor, **properties}
        if version:
            told["gfx_target_version"] = version
        return self._node(told, name=name, memory=((1, memory), (4, 64 * 1024)))

    def product(self, minor: int, *, name: str = "", revision: str = "0xc8") -> KfdTree:
        """Say what DRM says of a render device."""
        device = f"sys/class/drm/renderD{minor}/device"
        self.write(f"{device}/product_name", f"{name}\n")
        self.write(f"{device}/revision", f"{revision}\n")
        return self

    def unreadable(self) -> KfdTree:
        """Add a GPU that is another container's: reading its properties fails."""
        (self.nodes / f"{self.count}/properties").mkdir(parents=True)
        self.count += 1
        return self

    def _node(
        self, told: dict[str, int], *, name: str, memory: tuple[tuple[int, int], ...]
    ) -> KfdTree:
        folder = f"sys/class/kfd/kfd/topology/nodes/{self.count}"
        fields = [
            field for field in FIELDS.split() if field != "gfx_target_version" or field in told
        ]
        lines = "".join(f"{field} {told.get(field, 0)}\n" for field in fields)
        self.write(f"{folder}/properties", lines)
        self.write(f"{folder}/name", f"{name}\n")
        self.write(f"{folder}/gpu_id", f"{told.get('gpu_id', 4711 + self.count)}\n")
        for number, (kind, size) in enumerate(memory):
            bank = f"heap_type {kind}\nsize_in_bytes {size}\nflags 0\nwidth 256\nmem_clk_max 1000\n"
            self.write(f"{folder}/mem_banks/{number}/properties", bank)
        self.count += 1
        return self


def plug(root: Path, vendor: str = "0x1002", kind: str = "0x030000") -> None:
    """Put a card on the PCI bus, whether a driver knows it or not."""
    device = root / "sys/bus/pci/devices/0000:03:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text(f"{vendor}\n")
    (device / "class").write_text(f"{kind}\n")
