"""Pushes with one fault each: what the repository holds afterwards, and whether the next push completes.

A table for the tests and for `benchmarks/push_faults.py`.
"""

from __future__ import annotations

import multiprocessing
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

from optimum_flab.hub.client import hub_client, translate_errors
from optimum_flab.hub.push import Change, repository_state, send
from optimum_flab.records.names import belonged_to_model
from optimum_flab.settings.hub import PushSettings
from optimum_flab.utils.errors import FlabError

from .loopback import Blob, Hub


REPOSITORY = "me/model"
RIGHT = "hf_right0000"
FILES = {
    "README.md": b"---\nlicense: mit\ntags:\n- pruned\n---\n# a card\n",
    "config.json": b'{"vocab_size": 2}',
    "model-00001-of-00002.safetensors": b"new weights " * 2_000,
    "model-00002-of-00002.safetensors": b"more weights" * 2_000,
    "model.safetensors.index.json": b"{}",
}
OLD = {
    "README.md": b"---\nlicense: mit\n---\n# the old card\n",
    "config.json": b'{"vocab_size": 1}',
    "model.safetensors": b"old weights!" * 3_000,
    "notes.md": b"somebody's notes",
}
FIRST = {".gitattributes": b"*.safetensors filter=lfs\n"}


@contextmanager
def talking_to(hub: Hub, home: str) -> Iterator[None]:
    """Within this context the library knows nothing but this Hub; waits between its attempts are short."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", hub.url)
        # transformers keeps a client with the address that it first saw
        patch.setattr("transformers.utils.hub._hf_api", None, raising=False)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
        patch.setattr(constants, "HF_HUB_CACHE", home)
        patch.setattr(constants, "HF_HUB_OFFLINE", False)  # this Hub is there
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(constants, "HF_TOKEN_PATH", f"{home}/token")
        patch.setattr("time.sleep", lambda seconds: None)
        for name in ("NO_PROXY", "no_proxy"):
            patch.setenv(name, "127.0.0.1")
        patch.setenv("HF_TOKEN", RIGHT)
        huggingface_hub.close_session()
        yield
        huggingface_hub.close_session()


@dataclass(frozen=True)
class Scenario:
    """A push and what it starts from.

    Args:
        old (`dict`, *optional*): the files of the repository; `None`: there is none.
        options (`dict`): of the push.
        branch (`str`): that is changed.
    """

    old: dict[str, bytes] | None
    options: dict[str, Any]
    branch: str = "main"

    def prepare(self, hub: Hub) -> None:
        hub.reset()
        if self.old is not None:
            hub.add(REPOSITORY, self.old)

    def push(self) -> str:
        """The requests of a push, without the checks of a checkpoint."""
        settings, api = PushSettings(**self.options), hub_client()
        with translate_errors("the repository could not be looked at"):
            state = repository_state(api, REPOSITORY, settings)
        delete = sorted(path for path in state.files - FILES.keys() if belonged_to_model(path))
        return send(api, state, Change(FILES, tuple(delete), "a push"), settings).commit_url

    def states(self) -> tuple[list[Any], Any]:
        """The states that count as the old one, and the new one."""

        def oids(files: dict[str, bytes]) -> dict[str, str]:
            return {path: Blob.stored(content).oid for path, content in files.items()}

        old = oids(FIRST if self.old is None else self.old)
        new = {**{path: oid for path, oid in old.items() if path in ("notes.md", ".gitattributes")}, **oids(FILES)}
        before = [{"main": old}] if self.old is not None else [None, {"main": old}]
        if self.branch != "main":
            return [*before, {"main": old, self.branch: old}], {"main": old, self.branch: new}
        if self.options.get("create_pr"):
            return before, {"main": old, "refs/pr/1": new}
        return before, {"main": new}


SCENARIOS = {
    "a new repository": Scenario(None, {"private": True}),
    "an update": Scenario(OLD, {}),
    "a new branch": Scenario(OLD, {"revision": "v1"}, branch="v1"),
    "a pull request": Scenario(OLD, {"create_pr": True}),
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


def requests_of(hub: Hub, scenario: Scenario) -> list[tuple[str, str]]:
    """The requests of a push without a fault."""
    for _ in range(2):  # the library's very first request asks for a list that it then keeps
        scenario.prepare(hub)
        scenario.push()
    assert hub.state(REPOSITORY) == scenario.states()[1]
    return list(hub.requests)


def outcome_of(hub: Hub, scenario: Scenario, is_killed: bool) -> tuple[str, BaseException | None]:
    """How a push ends; one that is killed is made in a process of its own."""
    if is_killed:
        process = multiprocessing.get_context("fork").Process(target=push_when_known, args=(hub, scenario))
        process.start()
        hub.client = process.pid
        process.join()
        return ("killed" if process.exitcode == -9 else "pushed"), None
    try:
        scenario.push()
        return "pushed", None
    except Exception as error:
        return "refused", error


def push_when_known(hub: Hub, scenario: Scenario) -> None:
    huggingface_hub.close_session()
    scenario.push()


def trial(hub: Hub, name: str, number: int, request: str, fault: str, lasting: bool = False) -> Trial:
    """One push with a fault, and the next without."""
    scenario = SCENARIOS[name]
    scenario.prepare(hub)
    old, new = scenario.states()
    hub.fault, hub.lasting = (number, fault), lasting
    outcome, error = outcome_of(hub, scenario, fault.startswith("killed"))
    state, hub.fault, hub.lasting = hub.state(REPOSITORY), None, False
    wrong = []
    if error is not None and not isinstance(error, FlabError):
        wrong.append(f"a traceback: {error!r}")
    if state != new and state not in old:
        wrong.append(f"a mixture: {state}")
    if outcome == "pushed" and state != new:
        wrong.append("the push says that it arrived, and it did not")
    if error is not None and "again" not in str(error):
        wrong.append(f"the message does not say how to go on: {error}")
    if scenario.options.get("create_pr") and state == new:
        if error is not None and "look at me/model first" not in str(error):
            wrong.append("the message does not say that the pull request may be there")
    else:
        scenario.push()
        if hub.state(REPOSITORY) != new:
            wrong.append(f"the next push does not complete: {hub.state(REPOSITORY)}")
        elif len(hub.repositories[REPOSITORY].commits) != 2:
            wrong.append(f"{len(hub.repositories[REPOSITORY].commits) - 1} commits instead of one")
    return Trial(name, number, request, f"{fault}{', lasting' * lasting}", outcome, "; ".join(wrong))


def trials(hub: Hub, name: str, faults: Callable[[int, str], Sequence[str]]) -> Iterator[Trial]:
    """Faults at every request of a scenario.

    Args:
        faults (`Callable`): from the number and path of a request to its faults; a fault with `!` lasts from then on.
    """
    for number, (method, path) in enumerate(requests_of(hub, SCENARIOS[name])):
        for fault in faults(number, path):
            request = f"{method} {re.sub('[0-9a-f]{40,}', '...', path)}"
            yield trial(hub, name, number, request, fault.removesuffix("!"), lasting=fault.endswith("!"))
