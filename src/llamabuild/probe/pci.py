"""What is plugged in, whether or not a driver knows it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

__all__ = ["has_card"]


def has_card(root: Path, vendor: str) -> bool:
    """Tell whether a vendor's display or 3D controller is on the PCI bus.

    :param root: the root of the file system.
    :param vendor: as sysfs writes it, "0x10de" or "0x1002".
    """
    for device in (root / "sys/bus/pci/devices").glob("*"):
        with suppress(OSError):
            found, kind = (device / "vendor").read_text(), (device / "class").read_text()
            # 0x03: display controllers; 0x12: accelerators, as Instinct cards are.
            if found.strip() == vendor and kind.startswith(("0x03", "0x12")):
                return True
    return False
