from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    """lm-eval asks a dozen programs what machine this is, which takes seconds per task."""
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tiny models lose by threads, above all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
