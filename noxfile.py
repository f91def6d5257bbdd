# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The checks and tests as nox sessions.

``./run`` prepares the machine and calls them. By hand: install requirements-dev.txt into an environment, activate it,
and call ``nox --list``. The sessions use the tools of that environment; nox makes none of its own.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import antsibull_nox
import nox

NAMESPACE, NAME = "splitmirror", "backup"
ROOT = Path(__file__).resolve().parent
CACHE = ROOT / ".cache"
#: The work tree under the name by which Ansible, mypy and the tests know it.
TREE = CACHE / "tree"
PYTHON_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
SCRIPTS = ("run", ".ci/run", "tests/fresh_machine.sh")
#: What stays out of copies of the tree where git cannot be asked.
NOT_COPIED = (".*", "__pycache__", "*.pyc", "*.tar.gz", "output")
COPIED_ANYWAY = (".ansible-lint", ".yamllint")

nox.options.default_venv_backend = "none"
# What needs no test to run; `./run check` calls these, the quick ones of the sanity tests, and the unit tests.
nox.options.sessions = [
    "lint",
    "types",
    "ansible-lint",
    "collection-docs",
    "changelog",
    "license-check",
    "extra-checks",
    "build-import-check",
]
antsibull_nox.load_antsibull_nox_toml()


def link_tree() -> None:
    """Make the link by which the work tree is found as ``ansible_collections.splitmirror.backup``."""
    link = TREE / "ansible_collections" / NAMESPACE / NAME
    if link.resolve() != ROOT:
        link.unlink(missing_ok=True)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(ROOT)


def collection_environment() -> dict[str, str]:
    """Return the variables under which Ansible's tools find the collection in the work tree."""
    link_tree()
    return {"ANSIBLE_COLLECTIONS_PATH": str(TREE)}


@nox.session
def lint(session: nox.Session) -> None:
    """Check the style of the Python code (ruff) and of the shell scripts."""
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("shellcheck", *SCRIPTS, external=True)


@nox.session
def types(session: nox.Session) -> None:
    """Check the types (mypy --strict, set in pyproject.toml)."""
    link_tree()
    package = f"--package=ansible_collections.{NAMESPACE}.{NAME}"
    session.run("mypy", f"{package}.plugins")
    # The tests run on the controller, whose Python is newer than the oldest of a target.
    session.run("mypy", f"--python-version={PYTHON_VERSION}", f"{package}.tests")


@nox.session(name="ansible-lint")
def ansible_lint(session: nox.Session) -> None:
    """Check roles, playbooks and meta data against ansible-lint's production profile."""
    session.run("ansible-lint", "--offline", env=collection_environment())


@nox.session(name="collection-docs")
def collection_docs(session: nox.Session) -> None:
    """Check the documentation of modules, plugins and roles as the docsite would render it."""
    copy = CACHE / "docs" / "ansible_collections" / NAMESPACE / NAME
    copy_tree(copy)
    session.run(
        "antsibull-docs",
        "lint-collection-docs",
        "--plugin-docs",
        "--skip-rstcheck",
        "--validate-collection-refs=self",
        str(copy),
        env={"ANSIBLE_COLLECTIONS_PATH": str(CACHE / "docs")},
    )


@nox.session
def changelog(session: nox.Session) -> None:
    """Check the changelog fragments."""
    session.run("antsibull-changelog", "lint")


@nox.session(default=False)
def quick(session: nox.Session) -> None:
    """Check style and types, and run the unit tests of what changed, but for those that are slow."""
    lint(session)
    types(session)
    session.run("pytest", "--numprocesses=auto", "-m", "not slow", *unit_tests_of(changed_files()))


@nox.session
def units(session: nox.Session) -> None:
    """Run the unit tests: no root, no devices."""
    link_tree()
    session.run("pytest", "tests/unit", "tests/seams", *session.posargs)


@nox.session
def sanity(session: nox.Session) -> None:
    """Run ansible-test sanity, without a container, on a copy of the collection."""
    copy = CACHE / "sanity" / "ansible_collections" / NAMESPACE / NAME
    copy_tree(copy)
    home = sanity_home()
    with session.chdir(copy):
        session.run(
            "ansible-test",
            "sanity",
            "--color",
            "no",
            *session.posargs,
            # The content root is named because ansible-test would find the work tree around it, which ignores the copy.
            env={"HOME": str(home), "ANSIBLE_TEST_CONTENT_ROOT": str(copy)},
        )


@nox.session
def molecule(session: nox.Session) -> None:
    """Go through a Molecule scenario, `default` unless another one is named; needs root (see docs/molecule.md)."""
    scenario = session.posargs or ["default"]
    state = CACHE / "as-root" / "molecule" / scenario[0]
    environment = {**collection_environment(), "MOLECULE_EPHEMERAL_DIRECTORY": str(state)}
    if not sys.stdout.isatty():
        environment["NO_COLOR"] = "1"  # it goes by the name of the terminal otherwise
    # A scenario's hosts are the machine's, whatever work tree it is called from: the second one waits for the first.
    # Without hosts of its own in the lab it waits for the tests of this machine's loop devices too (tests/conftest.py).
    lock = os.open("/var/lib" if scenario[0] == "san" else "/var/tmp", os.O_RDONLY)  # noqa: S108 - a lock, no file in it
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        # What Molecule believes to exist already it does not make; a run that was killed leaves such a belief there.
        shutil.rmtree(state, ignore_errors=True)
        session.run("molecule", "test", "--no-command-borders", "--scenario-name", *scenario, env=environment)
    finally:
        os.close(lock)


@nox.session
def tests(session: nox.Session) -> None:
    """Run all tests, unit and integration; those of real devices need root."""
    link_tree()
    session.run("pytest", *session.posargs)


def changed_files() -> list[str]:
    """Return what differs from the last commit; where nothing does, what the last commit changed."""

    def names(*words: str) -> list[str]:
        done = subprocess.run(["git", *words, "-z"], cwd=ROOT, capture_output=True, check=True)
        return list(filter(None, os.fsdecode(done.stdout).split("\0")))

    changed = names("diff", "--name-only", "HEAD") + names("ls-files", "--others", "--exclude-standard")
    return changed or names("show", "--format=", "--name-only", "HEAD")


def unit_tests_of(changed: list[str]) -> list[str]:
    """Return the unit tests of these files: those of their package, and always those of the whole house."""
    units = Path("tests/unit")
    house = ("test_imports.py", "test_architecture.py", "test_claims.py", "test_errors.py", "test_names_of_files.py")
    found = {units / name for name in house}
    for name in changed:
        parts = Path(name).parts
        if parts[:2] == ("tests", "unit"):
            found.add(units / parts[2])
        elif parts[:2] == ("tests", "seams"):
            found.add(Path("tests/seams"))
        elif parts[:2] == ("plugins", "module_utils"):
            found |= {units / parts[2], units / f"test_{Path(parts[2]).stem}.py"}
            if parts[2] in ("database", "mirror", "tape", "transport"):
                found.add(Path("tests/seams"))
        elif parts[0] == "plugins":
            of_folder = {"modules": "test_modules.py", "filter": "filter"}
            found.add(units / of_folder.get(parts[1], "controller"))
        elif parts[0] in ("roles", "playbooks"):
            found.add(units / "filter")
    return sorted(str(path) for path in found if (ROOT / path).exists())


def copy_tree(target: Path) -> None:
    """Copy what belongs to the collection, with the changes that are not committed yet, to an empty folder."""
    shutil.rmtree(target, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode:
        shutil.copytree(ROOT, target, ignore=_not_copied, symlinks=True)
        return
    for name in filter(None, os.fsdecode(listed.stdout).split("\0")):
        source = ROOT / name
        if source.is_file():  # and not deleted in the work tree
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name, follow_symlinks=False)


def _not_copied(folder: str, names: list[str]) -> set[str]:
    return set(shutil.ignore_patterns(*NOT_COPIED)(folder, names)) - set(COPIED_ANYWAY)


def sanity_home() -> Path:
    """Make a home folder for ansible-test with its bootstrap of pip and the user's settings of pip, and return it.

    ansible-test downloads get-pip.py from a server of its own unless its cache holds it, so the cache gets a stand-in
    that installs from the index which pip is set to. A home of its own, because the user's own cache is not ours.
    """
    # Which version it wants is known to this internal function only, and it differs between versions of ansible-core.
    from ansible_test._internal.python_requirements import get_venv_packages  # noqa: PLC0415

    pip_version = get_venv_packages(SimpleNamespace(version=PYTHON_VERSION))["pip"]
    home = CACHE / "home"
    cache = home / ".ansible" / "test" / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    for settings in (".config/pip", ".pip"):
        if (Path.home() / settings).is_dir() and not (home / settings).exists():
            (home / settings).parent.mkdir(exist_ok=True)
            (home / settings).symlink_to(Path.home() / settings)
    if not list(cache.glob(f"pip-{pip_version}-*.whl")):
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(cache)]
        subprocess.run([*download, f"pip=={pip_version}"], check=True)
    shutil.copy(ROOT / "tests" / "support" / "get_pip.py", cache / f"get_pip_{pip_version.replace('.', '_')}.py")
    return home
