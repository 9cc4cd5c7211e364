"""The example that counts as a datatrove pipeline, with a datatrove that is installed beside this environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from optimum_flab import TokenCounts, count_sources

from .conftest import TEXTS, byte_level_tokenizer, tiny_model


pytestmark = pytest.mark.thorough

EXAMPLE = Path(__file__).parents[1] / "examples" / "count_with_datatrove.py"
# what it needs that this environment lacks
DATATROVE = ("datatrove>=0.6", "humanize", "loguru")


@pytest.fixture(scope="module")
def packages(tmp_path_factory) -> Path:
    if not EXAMPLE.exists():
        pytest.skip("the package is installed without its sources")
    folder = tmp_path_factory.mktemp("packages")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--target", folder]
    run = subprocess.run(
        list(map(str, (*command, *DATATROVE))), capture_output=True, text=True, timeout=300, check=False
    )
    if run.returncode:
        pytest.skip(f"datatrove cannot be installed here: {run.stderr.strip()[-200:]}")
    return folder


@pytest.fixture
def project(tmp_path) -> Path:
    """A model, and parquet files with texts that are blank among them."""
    tiny_model("llama", 600).save_pretrained(tmp_path / "model")
    byte_level_tokenizer(600).save_pretrained(tmp_path / "model")
    (tmp_path / "data").mkdir()
    for number in range(3):
        texts = [*TEXTS[number::3], " \n", ""]
        table = pyarrow.table({"code": texts, "more": list(range(len(texts)))})
        pyarrow.parquet.write_table(table, tmp_path / "data" / f"{number}.parquet")
    return tmp_path


def run(project: Path, packages: Path, workers: int) -> subprocess.CompletedProcess:
    paths = os.pathsep.join(filter(None, [str(packages), *sys.path]))
    command = [sys.executable, EXAMPLE, "data", "counts.npz", "-m", "model", "--column", "code", "--tasks", "4"]
    return subprocess.run(
        list(map(str, [*command, "--workers", workers])),
        env={**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"},
        cwd=project,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def check_counts(project: Path, output: str) -> None:
    files = [f"{file}[code]" for file in sorted((project / "data").iterdir())]
    whole = count_sources(project / "model", files, name="data", cache_dir=project / "cache")
    found = TokenCounts.load(project / "counts.npz")
    assert found.hash == whole.hash and found.total().texts == len(TEXTS) == whole.total().texts
    assert f"{whole.total().tokens:,}" in output
    assert sorted(path.name for path in project.iterdir()) == ["cache", "counts.npz", "data", "model"]


def test_tasks_of_a_pipeline_give_the_counts_of_the_whole(packages, project):
    done = run(project, packages, workers=2)  # one of four tasks has no file
    assert done.returncode == 0, done.stderr
    check_counts(project, done.stdout)


def test_tasks_that_are_done_are_not_done_again(packages, project):
    file = project / "data" / "2.parquet"
    content = file.read_bytes()
    file.write_bytes(content[:-4])
    broken = run(project, packages, workers=1)
    assert broken.returncode and not (project / "counts.npz").exists()
    assert len(list(project.rglob("0000?.npz"))) == 2, broken.stderr
    file.write_bytes(content)
    again = run(project, packages, workers=1)
    assert again.returncode == 0, again.stderr
    assert "Skipping 2 already completed tasks" in again.stderr
    check_counts(project, again.stdout)
