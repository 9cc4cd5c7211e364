"""A push with one fault leaves the old state or the new one, and the next push completes.

`benchmarks/push_faults.py` has every fault at every request; here each request gets one of them, the commit all.
"""

from __future__ import annotations

import pytest
from hub.faults import REPOSITORY, SCENARIOS, STAGED, push_constant, trials
from hub.loopback import FAULTS

from ..conftest import thorough_but


LASTING = ("reset!", "503!")


def one(number, path):
    return [LASTING[0] if "/commit/" in path else FAULTS[5 * number % len(FAULTS)]]


def all_of_the_commit(number, path):
    return (*FAULTS, *LASTING) if "/commit/" in path else one(number, path)


@pytest.mark.parametrize(
    ("name", "faults"),
    thorough_but(
        2,
        [
            ("an update", all_of_the_commit),
            ("a new repository", one),
            ("a new branch", one),
            ("a pull request", all_of_the_commit),
            ("a pull request brought up to date", one),
        ],
    ),
)
def test_a_fault_leaves_no_mixture(name, faults, hub, client):
    found = list(trials(hub, client, name, faults))
    assert len(found) > 10
    assert [trial for trial in found if trial.wrong] == []
    assert {trial.outcome for trial in found} == {"pushed", "refused", "killed"}


@pytest.mark.parametrize(
    "fault", thorough_but(1, ["reset-after", "timeout-after", "truncated-after", "500-after", "504-after"])
)
@pytest.mark.parametrize("name", ["an update", "a pull request", "a pull request brought up to date"])
def test_a_reply_that_is_lost_is_no_reason_to_send_again(name, fault, hub, client):
    scenario = SCENARIOS[name]
    for _ in range(2):
        scenario.prepare(hub)
        client(push_constant, STAGED, REPOSITORY, **scenario.options).result()
    last = len(hub.requests) - 1
    scenario.prepare(hub)
    hub.fault = (last, fault)
    found = client(push_constant, STAGED, REPOSITORY, timeout=0.3, **scenario.options).result()
    commits = [path for method, path in hub.requests if "/commit/" in path]
    assert len(commits) == 1 and len(hub.repositories[REPOSITORY].commits) == scenario.commits
    assert found.url.startswith(f"{hub.url}/{REPOSITORY}/")
