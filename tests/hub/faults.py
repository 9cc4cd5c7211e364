"""Pushes with one fault each: what the repository holds afterwards, and whether the next push completes.

A table for the tests and for `benchmarks/push_faults.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from optimum_flab.hub.changes import SIGNATURE
from optimum_flab.hub.staging import Staged

from .client import Client, push_constant
from .loopback import Blob, Hub


REPOSITORY = "me/model"
CARD = "---\nlicense: mit\ntags:\n- pruned\n---\n# a card\n"
STAGED = Staged(
    {
        "README.md": CARD.encode(),
        "config.json": b'{"vocab_size": 2}',
        "model-00001-of-00002.safetensors": b"new weights " * 2_000,
        "model-00002-of-00002.safetensors": b"more weights" * 2_000,
        "model.safetensors.index.json": b"{}",
    },
    CARD,
)
OLD = {
    "README.md": b"---\nlicense: mit\n---\n# the old card\n",
    "config.json": b'{"vocab_size": 1}',
    "model.safetensors": b"old weights!" * 3_000,
    "notes.md": b"somebody's notes",
}
FIRST = {".gitattributes": b"*.safetensors filter=lfs\n"}


@dataclass(frozen=True)
class Scenario:
    """A push and what it starts from.

    Args:
        old (`dict`, *optional*): the files of the repository; `None`: there is none.
        options (`dict`): of the push.
        branch (`str`): that is changed.
        proposed (`dict`, *optional*): the files of a pull request that an earlier push opened.
    """

    old: dict[str, bytes] | None
    options: dict[str, Any]
    branch: str = "main"
    proposed: dict[str, bytes] | None = None

    @property
    def commits(self) -> int:
        """How many there are afterwards."""
        return 2 + (self.proposed is not None)

    def prepare(self, hub: Hub) -> None:
        hub.reset()
        if self.old is not None:
            repository = hub.add(REPOSITORY, self.old)
        if self.proposed is not None:
            files = {path: hub.blob(content) for path, content in self.proposed.items()}
            repository.propose(files, repository.branches["main"], "Mine", f"{SIGNATURE} 0")

    def states(self) -> tuple[list[Any], Any]:
        """The states that count as the old one, and the new one."""

        def oids(files: dict[str, bytes]) -> dict[str, str]:
            return {path: Blob.stored(content).oid for path, content in files.items()}

        old = oids(FIRST if self.old is None else self.old)
        kept = {path: oid for path, oid in old.items() if path in ("notes.md", ".gitattributes")}
        new = {**kept, **oids(STAGED.files)}
        before = [{"main": old}] if self.old is not None else [None, {"main": old}]
        if self.branch != "main":
            before.append({"main": old, self.branch: old})
            return before, {"main": old, self.branch: new}
        if self.proposed is not None:
            proposed = oids(self.proposed)
            return [{"main": old, "refs/pr/1": proposed}], {"main": old, "refs/pr/1": new}
        if self.options.get("create_pr"):
            return before, {"main": old, "refs/pr/1": new}
        return before, {"main": new}


SCENARIOS = {
    "a new repository": Scenario(None, {"private": True}),
    "an update": Scenario(OLD, {}),
    "a new branch": Scenario(OLD, {"revision": "v1"}, branch="v1"),
    "a pull request": Scenario(OLD, {"create_pr": True}),
    "a pull request brought up to date": Scenario(OLD, {"create_pr": True}, proposed={**OLD, "config.json": b"{}"}),
}


@dataclass(frozen=True)
class Trial:
    """What came of one fault.

    Args:
        number (`int`), request (`str`): at which it happened.
        outcome (`str`): of the faulty push: `pushed`, `refused` (with a message) or `killed`.
        wrong (`str`): what should not be; empty if nothing.
    """

    scenario: str
    number: int
    request: str
    fault: str
    outcome: str
    wrong: str = ""


def requests_of(hub: Hub, client: Client, scenario: Scenario) -> list[tuple[str, str]]:
    """The requests of a push without a fault."""
    for _ in range(2):  # the client's very first request asks for a list that it then keeps
        scenario.prepare(hub)
        client(push_constant, STAGED, REPOSITORY, **scenario.options).result()
    assert hub.state(REPOSITORY) == scenario.states()[1]
    return list(hub.requests)


def trial(hub: Hub, client: Client, name: str, number: int, request: str, fault: str, lasting: bool = False) -> Trial:
    """One push with a fault, and the next without."""
    scenario = SCENARIOS[name]
    scenario.prepare(hub)
    old, new = scenario.states()
    hub.fault, hub.lasting = (number, fault), lasting
    first = client(push_constant, STAGED, REPOSITORY, timeout=0.3, **scenario.options)
    state, hub.fault, hub.lasting = hub.state(REPOSITORY), None, False
    outcome = "killed" if first.killed else "pushed" if first.error is None and not first.failure else "refused"
    wrong = []
    if first.failure:
        wrong.append(f"a traceback: {first.failure}")
    if state != new and state not in old:
        wrong.append(f"a mixture: {state}")
    if outcome == "pushed" and state != new:
        wrong.append("the push says that it arrived, and it did not")
    if outcome == "refused" and "again" not in str(first.error):
        wrong.append(f"the message does not say how to go on: {first.error}")
    second = client(push_constant, STAGED, REPOSITORY, **scenario.options)
    if second.error is not None or second.failure:
        wrong.append(f"the next push fails: {second.error or second.failure}")
    if hub.state(REPOSITORY) != new:
        wrong.append(f"the next push does not complete: {hub.state(REPOSITORY)}")
    elif len(hub.repositories[REPOSITORY].commits) != scenario.commits:
        wrong.append(f"{len(hub.repositories[REPOSITORY].commits)} commits instead of {scenario.commits}")
    kind = f"{fault}, lasting" if lasting else fault
    return Trial(name, number, request, kind, outcome, "; ".join(wrong))


def trials(hub: Hub, client: Client, name: str, faults: Callable[[int, str], Sequence[str]]) -> Iterator[Trial]:
    """Faults at every request of a scenario.

    Args:
        faults (`Callable`): from the number and path of a request to its faults; a fault with `!` lasts from then on.
    """
    for number, (method, path) in enumerate(requests_of(hub, client, SCENARIOS[name])):
        for fault in faults(number, path):
            request = f"{method} {re.sub('[0-9a-f]{40,}', '...', path)}"
            yield trial(hub, client, name, number, request, fault.removesuffix("!"), lasting=fault.endswith("!"))
