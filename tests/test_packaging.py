"""What is built holds the package, and works where it is installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import optimum_flab


ROOT = Path(optimum_flab.__file__).resolve().parent.parent
LARGEST_WHEEL = 2_000_000  # bytes
REGISTRATION = "optimum/commands/register/register_flab.py"
OTHER_COMMAND = """
from optimum.commands.base import BaseOptimumCLICommand, CommandInfo

class Other(BaseOptimumCLICommand):
    COMMAND = CommandInfo("other", help="A command of another subpackage.")

REGISTER_COMMANDS = [Other]
"""

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="the package is installed without its sources"),
]


def run(*command, cwd=None, **environment) -> subprocess.CompletedProcess:
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    result = subprocess.run(
        list(map(str, command)), cwd=cwd, env={**inherited, **environment}, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    return result


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """A copy of the sources: an editable install and a build leave nothing in the working tree."""
    copy = tmp_path_factory.mktemp("sources") / "project"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist"))
    return copy


@pytest.fixture(scope="module")
def built(sources, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    # the wheel is built from the sdist, as on a packager's machine
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, sources)
    return out


@pytest.fixture
def environment(tmp_path) -> Path:
    """A virtual environment that holds what this one does, without `optimum_flab`; returns its interpreter.

    Packages are linked rather than installed. `optimum` is copied, since installing us writes into its namespace.
    """
    folder = tmp_path / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    purelib = "import sysconfig; print(sysconfig.get_path('purelib'))"
    there = Path(run(python, "-c", purelib).stdout.strip())
    for here in dict.fromkeys(map(sysconfig.get_path, ("purelib", "platlib"))):
        for entry in Path(here).iterdir():
            if "optimum_flab" in entry.name or entry.name == "__pycache__" or (there / entry.name).exists():
                continue
            if entry.name == "optimum":
                ignored = shutil.ignore_patterns("register_flab*", "__pycache__")
                shutil.copytree(entry, there / "optimum", ignore=ignored)
            else:
                (there / entry.name).symlink_to(entry)
    other = there / "optimum/commands/register/register_other.py"
    other.parent.mkdir(parents=True, exist_ok=True)
    other.write_text(OTHER_COMMAND, encoding="utf-8")
    return python


def check_command(python: Path, cwd: Path) -> None:
    cli = (python, "-m", "optimum.commands.optimum_cli")
    root = run(*cli, "--help", cwd=cwd).stdout
    assert "flab" in root and "other" in root
    for verb in ("prune", "apply", "inspect", "push"):
        assert "Required arguments:" in run(*cli, "flab", verb, "--help", cwd=cwd).stdout
    where = run(python, "-c", "import optimum_flab; print(optimum_flab.__file__, optimum_flab.__version__)", cwd=cwd)
    assert str(ROOT / "optimum_flab") not in where.stdout
    assert where.stdout.split()[-1] == optimum_flab.__version__


def install(python: Path, *what) -> None:
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", *what)


def test_the_wheel_holds_the_package_and_its_registration_and_nothing_else(built, sources):
    (wheel,) = built.glob("*-py3-none-any.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert REGISTRATION in names
    assert {name.split("/")[0] for name in names} == {
        "optimum",
        "optimum_flab",
        f"optimum_flab-{optimum_flab.__version__}.dist-info",
    }
    assert [name for name in names if name.startswith("optimum/")] == [REGISTRATION]
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert wheel.stat().st_size < LARGEST_WHEEL
    assert "optimum_flab/recipes/laptop.yaml" in names
    assert "optimum_flab/py.typed" in names  # without it, type checkers pass over the annotations
    modules = {path.relative_to(sources).as_posix() for path in (sources / "optimum_flab").rglob("*.py")}
    # hatchling puts the registration in its namespace instead of the package
    assert {name for name in names if name.endswith(".py")} - {REGISTRATION} == modules - {
        "optimum_flab/_register_flab.py"
    }


@pytest.mark.parametrize("kind", ["*.whl", "*.tar.gz"])
def test_the_command_works_from_what_was_built(built, environment, tmp_path, kind):
    (archive,) = built.glob(kind)
    install(environment, archive)
    check_command(environment, tmp_path)


def test_the_command_works_from_an_editable_install_and_in_the_repository_itself(sources, environment, tmp_path):
    install(environment, "--editable", sources)
    check_command(environment, tmp_path)
    check_command(environment, sources)


def test_the_oldest_versions_that_are_tested_are_those_that_are_declared():
    declared = re.search(r"^dependencies = \[\n(.*?)^\]", (ROOT / "pyproject.toml").read_text("utf-8"), re.M | re.S)[1]
    wanted = [line.strip(' ",') for line in declared.splitlines()]
    assert all(re.fullmatch(r"[\w-]+>=[\d.]+", line) for line in wanted), "a dependency without a plain lower bound"
    lines = (ROOT / ".github" / "oldest.txt").read_text("utf-8").splitlines()
    assert [line for line in lines if not line.startswith("#")] == [line.replace(">=", "==") for line in wanted]


def test_the_version_stands_in_one_place():
    assert "\nversion" not in (ROOT / "pyproject.toml").read_text("utf-8")
    assert "\nversion" not in (ROOT / "CITATION.cff").read_text("utf-8")
