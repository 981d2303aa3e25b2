"""llamabuild rebuilds the GPU module of a llamafile for the GPU that is really there.

    import llamabuild

    (built,) = llamabuild.build(arch="61,75", source="./llava.llamafile")
    print(built.path, built.cached)

:func:`build`, :func:`plan` and :func:`detect` do what the commands of these names do; the keyword
arguments are the command line's options (``per_arch=True``, ``defines=["NAME=1"]``). Every error
that a user can cause is a :class:`llamabuild.errors.LlamabuildError` with a ``message``, a ``hint``
and the command line's ``exit_code``. Importing this package imports nothing else.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Unpack

    from llamabuild.events import Listener
    from llamabuild.pipeline import Built, Job
    from llamabuild.planning import Plan
    from llamabuild.probe import Detection
    from llamabuild.settings import Options

__all__ = ["__version__", "build", "detect", "plan"]

__version__ = "0.1.0"


def build(
    arch: str | None = None,
    source: str | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    notify: Listener | None = None,
    **options: Unpack[Options],
) -> tuple[Built, ...]:
    """Have GPU modules, from the cache or from the compilers: one, or one per architecture.

    :param arch: as ``--arch``: ``native``, ``all-major``, ``"61,75,90"``.
    :param source: as ``--source``: a llamafile, a tree, an archive, ``pypi:NAME==VERSION``.
    :param environ: the environment to use in place of this process's.
    :param notify: is called with every :data:`llamabuild.events.Event`; by default nobody listens.
    :raises LlamabuildError: anything that the command line would report with an exit code.
    """
    from llamabuild import pipeline

    return pipeline.build(_planned(arch, source, environ, notify, options))


def plan(
    arch: str | None = None,
    source: str | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    notify: Listener | None = None,
    **options: Unpack[Options],
) -> tuple[Plan, ...]:
    """Say what :func:`build` would build, without compiling. Parameters and errors as there."""
    return _planned(arch, source, environ, notify, options).plans


def detect(*, environ: Mapping[str, str] | None = None) -> Detection:
    """Look at the GPUs and the driver of this machine; never fails, problems are in the result."""
    import os

    from llamabuild import pipeline

    return pipeline.detect(os.environ if environ is None else environ)


def _planned(
    arch: str | None,
    source: str | None,
    environ: Mapping[str, str] | None,
    notify: Listener | None,
    options: Mapping[str, Any],
) -> Job:
    import os
    from pathlib import Path

    from llamabuild import pipeline, settings
    from llamabuild.events import silent

    variables = os.environ if environ is None else environ
    request = settings.resolve({**options, "arch": arch, "source": source}, variables)
    return pipeline.plan(pipeline.start(request, variables, Path.cwd(), notify or silent))
