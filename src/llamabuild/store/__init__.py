"""The cache: a key in, a finished module out.

``<cache>/v1/<key>/`` holds a module, ``manifest.json`` and ``build.log``. An entry appears by one
rename, so a reader sees a whole entry or none, and one builder at a time works on a key::

    artifact = store.lookup(key, notify)
    if artifact is None:
        with store.claim(key, notify) as staging:          # waits for another builder of the key
            artifact = store.lookup(key, notify)           # which may have built it meanwhile
            if artifact is None:
                ...                                        # build into staging.entry
                artifact = store.publish(staging, "ggml-cuda.so", manifest)

Whatever ends a builder, SIGKILL and power cuts included, the same lines work again: its lock dies
with it, and the next builder sweeps away what it left.
"""

from llamabuild.store.artifact import Artifact, Damage
from llamabuild.store.cache import Entry, Staging, Store
from llamabuild.store.checkup import Checkup, checkup
from llamabuild.store.export import export
from llamabuild.store.location import cache_root, intended_root

__all__ = [
    "Artifact",
    "Checkup",
    "Damage",
    "Entry",
    "Staging",
    "Store",
    "cache_root",
    "checkup",
    "export",
    "intended_root",
]
