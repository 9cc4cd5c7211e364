"""With hf_xet, which sends large files by another way."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
from hub.client import RIGHT
from hub.faults import REPOSITORY, STAGED
from packaging.version import Version


CODE = """
from hub.client import push_constant
from hub.faults import REPOSITORY, STAGED
print(push_constant(STAGED, REPOSITORY).url)
"""


@pytest.mark.skipif(importlib.util.find_spec("hf_xet") is None, reason="hf_xet is not there on this platform")
def test_with_xet_there_is_exactly_one_commit_and_it_comes_last(hub, tmp_path):
    hub.xet = True
    # a process without a fork: the threads of hf_xet do not survive one
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_TOKEN": RIGHT}
    environment |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "PYTHONPATH": str(Path(__file__).parent.parent)}
    ran = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    paths = [path for method, path in hub.requests if method != "GET" and "telemetry" not in path]
    # older clients do not take this server for one that has Xet
    if Version(huggingface_hub.__version__).major > 1:
        assert any("/xorbs/" in path for path in paths) and not any(path.startswith("/lfs/") for path in paths)
    assert [path for path in paths if "/commit/" in path] == [paths[-1]] == [f"/api/models/{REPOSITORY}/commit/main"]
    assert len(hub.repositories[REPOSITORY].commits) == 2
    assert set(hub.repositories[REPOSITORY].commits[ran.stdout.strip()[-40:]]) == {*STAGED.files, ".gitattributes"}
