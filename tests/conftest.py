"""What holds for every test: nobody's settings reach it, and it reaches nobody's cache."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

# A test is right or wrong, on a busy machine, too: no property is held against the clock.
settings.register_profile("no clock", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no clock")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Give the test an empty cache, and none of the settings of who runs it."""
    for name in list(os.environ):
        if name.startswith("LLAMABUILD_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("LLAMABUILD_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
