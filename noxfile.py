"""Everything that is run on this project, by ``nox``; ``nox --list`` tells what there is.

Without a session's name: ``lint``, ``unit`` and ``real``, which is what has to pass.
"""

from __future__ import annotations

from pathlib import Path

import nox

nox.needs_version = ">=2024.10.9"
nox.options.sessions = ["lint", "unit", "real"]
nox.options.default_venv_backend = "virtualenv"  # pip, which reads the configured package index

PYPROJECT = nox.project.load_toml("pyproject.toml")


def group(name: str) -> list[str]:
    """Return the requirements of a dependency group."""
    return list(nox.project.dependency_groups(PYPROJECT, name))


@nox.session
def lint(session: nox.Session) -> None:
    """Style, and types."""
    session.install(".", *group("lint"), *group("test"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("mypy")


@nox.session
def unit(session: nox.Session) -> None:
    """Tests without a compiler, on the installed package."""
    session.install(".", *group("test"))
    session.run("pytest", "tests/unit", *session.posargs)


@nox.session
def real(session: nox.Session) -> None:
    """Tests with the compilers and sources that are here; what is missing is skipped."""
    session.install(".[cuda13]", *group("test"))
    session.run("pytest", "tests/real", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """A million damaged inputs for the readers of foreign files: ``nox -s fuzz -- [TARGET]``."""
    session.install(".", *group("test"), "atheris")
    targets = ("module", "report", "cubin", "object", "bundle", "ptx", "lz4", "zstd", "demangle")
    for target in session.posargs or targets:
        session.run(
            *("python", "-m", "tests.fuzz.readers", target),
            *("-runs=200000", "-max_total_time=300", "-timeout=20", "-rss_limit_mb=1000"),
            env={"TMPDIR": session.create_tmp()},
        )


@nox.session
def minimums(session: nox.Session) -> None:
    """Unit tests with the oldest dependencies that are allowed."""
    wanted = [*PYPROJECT["project"]["dependencies"], *group("test")]
    session.install(".", *(requirement.replace(">=", "==") for requirement in wanted))
    session.run("pytest", "tests/unit", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Ratios of times, each measured in one run: ``nox -s bench -- builds --source FILE ...``."""
    session.install(".[cuda13]")
    name, *options = session.posargs or ["startup"]
    session.run("python", Path("benchmarks", f"{name}.py"), *options)


@nox.session
def docs(session: nox.Session) -> None:
    """The pages of ``docs/`` as a site; a link that leads nowhere is an error."""
    session.install(".", *group("docs"))
    session.run("python", "-m", "llamabuild.cli.reference", "docs/reference.md")
    session.run("mkdocs", "build", "--strict", "--site-dir", session.create_tmp())
