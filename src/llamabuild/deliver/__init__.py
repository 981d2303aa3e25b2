"""Puts a module where its user loads it.

``identify`` says which llamafile it is, ``install`` puts a module where that release takes it,
``rollback`` brings back what was there, ``survey`` finds every llamafile and module, and ``embed``
puts modules into llamafiles and takes them out.
"""

from __future__ import annotations

from llamabuild.deliver.identify import Llamafile, Member, identify
from llamabuild.deliver.keep import Backups, FileState, Record, backups_folder
from llamabuild.deliver.places import (
    member_name,
    required_symbols,
    search_order,
    system_name,
)

__all__ = [
    "Backups",
    "FileState",
    "Llamafile",
    "Member",
    "Record",
    "backups_folder",
    "identify",
    "member_name",
    "required_symbols",
    "search_order",
    "system_name",
]
