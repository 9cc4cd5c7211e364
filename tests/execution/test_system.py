"""Systems without what sandboxes, or tensors in files, are made of. What they lack is taken away here."""

from __future__ import annotations

import os
import sys

import pytest
from conftest import flab

from optimum_flab import FlabError, RecoveryConfig
from optimum_flab.execution import Program, best_isolation, run_programs
from optimum_flab.recovery.checks import check_inputs
from optimum_flab.tensors.workspace import Workspace


CANNOT = "programs cannot be run here"


@pytest.fixture
def no_fork(monkeypatch):
    best_isolation.cache_clear()
    monkeypatch.delattr(os, "fork")


@pytest.mark.parametrize("consent", [[], ["--confirm-run-unsafe-code"]])
@pytest.mark.parametrize(
    "asked",
    [
        ["-m", "no/where", "--tasks", "humaneval"],
        ["-m", "no/where", "--tasks", "standard"],
        ["--check-references", "--tasks", "mbpp"],
    ],
)
def test_code_tasks_are_refused_before_anything_is_loaded(asked, consent, no_fork, tmp_path):
    ended = flab("eval", *asked, "-o", tmp_path / "out", *consent)
    assert ended.code == 1 and CANNOT in ended.err and "Traceback" not in ended.err


def test_a_recovery_with_tests_and_programs_are_refused(no_fork, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"instruction": "f", "answer": "f = 1", "test": "assert f"}\n')
    with pytest.raises(FlabError, match=CANNOT):
        check_inputs(RecoveryConfig(data=str(tmp_path / "rows.jsonl")), True)
    with pytest.raises(FlabError, match=CANNOT):
        run_programs([Program("f = 1", "assert f")], confirm_run_unsafe_code=True)


def test_weights_in_files_are_refused_on_windows(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(FlabError, match="weights cannot stay in their files on Windows"):
        Workspace(tmp_path)
    assert Workspace().empty((2, 3)).shape == (2, 3)
