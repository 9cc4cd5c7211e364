"""Servers that refuse, keep silent, ask to wait, or die: what becomes of the requests of a push."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hub.client import RIGHT, push, push_constant
from hub.faults import OLD, REPOSITORY, SCENARIOS, STAGED, requests_of
from hub.loopback import Handler, Hub
from huggingface_hub import get_session

import optimum_flab
from optimum_flab.errors import ConfigurationError, FlabError
from optimum_flab.hub.client import answers_within
from optimum_flab.hub.failures import LONGEST_WAIT, advice, asked_wait, causes, passing, response_of, scrubbed
from optimum_flab.hub.push import push_to_hub


UPDATE = SCENARIOS["an update"]


def request_with(hub, client, part):
    """The number of the first request of an update whose path holds a text."""
    found = next(number for number, (_, path) in enumerate(requests_of(hub, client, UPDATE)) if part in path)
    UPDATE.prepare(hub)
    return found


@pytest.mark.parametrize("part", ["tree", "preupload", "/lfs/", "commit"])
def test_a_silent_server_is_given_up_after_a_refused_connection_too(part, hub, client):
    before, number = UPDATE.states()[0], request_with(hub, client, part)
    hub.fault, hub.afterwards = (number, "refused"), "timeout"
    found = client(push_constant, STAGED, REPOSITORY, timeout=0.3)
    assert isinstance(found.error, FlabError), found.failure
    assert "no answer within 0.3 seconds" in str(found.error) and "the same command again" in str(found.error)
    assert hub.waited_for and all(hub.waited_for), "the server gave up before the client"
    hub.fault = None
    assert hub.state(REPOSITORY) in before


@pytest.mark.parametrize("number", range(6))
def test_a_silent_server_is_asked_once(number, hub, client):
    requests_of(hub, client, UPDATE)
    UPDATE.prepare(hub)
    hub.fault, hub.lasting = (number, "timeout"), True
    found = client(push_constant, STAGED, REPOSITORY, timeout=0.3)
    assert "no answer within 0.3 seconds" in str(found.error), found.failure
    assert len(hub.requests) == number + 1 and hub.waited_for == [True]


def test_the_client_of_the_process_is_as_it_was(monkeypatch):
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils import _http

    def own():
        client = _http.default_client_factory()
        client.headers["x-mine"] = "1"
        return client

    set_client_factory(own)
    try:
        with answers_within(7):
            assert get_session().headers["x-mine"] == "1" and "guarded" in repr(get_session().send)
        assert get_session().headers["x-mine"] == "1" and "guarded" not in repr(get_session().send)
        shared = own()
        send = shared.send
        set_client_factory(lambda: shared)
        for _ in range(2):
            with answers_within(7):
                assert get_session() is shared and "guarded" in repr(shared.send)
            assert shared.send == send
    finally:
        set_client_factory(_http.default_client_factory)


def test_a_name_that_nobody_knows_is_not_asked_again_and_again(caplog):
    from huggingface_hub import HfApi

    api = HfApi(endpoint="http://no-such-host.invalid")
    with answers_within(7), pytest.raises(Exception) as caught:
        api.hf_hub_download("me/model", "README.md")
    assert "no-such-host.invalid cannot be resolved" in str(list(causes(caught.value))), caught.value
    assert "Retrying" not in caplog.text


# --- a Hub that asks to wait


def push_and_tell_waits(*arguments, **options):
    waits, nap = [], time.sleep

    def sleep(seconds):
        waits.append(seconds)
        nap(0.001)

    time.sleep = sleep
    push_constant(*arguments, **options)
    return waits


@pytest.mark.parametrize("part", ["whoami", "refs", "commit"])
def test_the_hub_is_waited_for_as_long_as_it_asks(part, hub, client):
    hub.fault, hub.limit = (request_with(hub, client, part), "limited"), 55
    found = client(push_and_tell_waits, STAGED, REPOSITORY)
    assert 56 in found.result()
    assert "the Hub asks to wait 56 seconds" in found.output
    assert hub.state(REPOSITORY) == UPDATE.states()[1]


@pytest.mark.parametrize("part", ["whoami", "tree", "preupload", "commit"])
def test_a_hub_that_goes_on_refusing_is_to_be_waited_for_not_repaired(part, hub, client):
    hub.fault, hub.lasting, hub.limit = (request_with(hub, client, part), "limited"), part == "whoami", 55
    if part != "whoami":
        hub.limit = LONGEST_WAIT + 100
    found = client(push_constant, STAGED, REPOSITORY)
    assert f"wait {hub.limit + 1:,} seconds, and run the same command again" in str(found.error), found.failure
    assert "connection" not in str(found.error) and "too many requests" in str(found.error)
    assert hub.state(REPOSITORY) in UPDATE.states()[0]


class Answer:
    def __init__(self, status, **headers):
        self.status_code, self.headers = status, {name.replace("_", "-"): value for name, value in headers.items()}


@pytest.mark.parametrize(
    ("response", "seconds"),
    [
        (Answer(429, ratelimit='"api";r=0;t=20'), 21),
        (Answer(429, ratelimit='"api";r=3;t=20'), None),
        (Answer(503, ratelimit='"api";r=0;t=20'), None),
        (Answer(503, Retry_After="7"), 7),
        (Answer(429, ratelimit='"api";r=0;t=20', Retry_After="7"), 21),
        (Answer(429, ratelimit="nonsense"), None),
        (None, None),
    ],
)
def test_what_the_hub_asks_for(response, seconds):
    error = RuntimeError("as the client wraps it")
    error.__cause__ = ValueError()
    error.__cause__.response = response
    assert asked_wait(response_of(error)) == seconds


def test_advice_fits_the_error():
    def wrapped(cause):
        error = RuntimeError("Error while uploading 'x' to the Hub.")
        error.__cause__ = cause
        return error

    assert "check the connection" in advice(wrapped(ConnectionRefusedError(111, "Connection refused")))
    assert passing(wrapped(ConnectionResetError())) and not passing(wrapped(ValueError()))
    assert "correct this" in advice(wrapped(ValueError()))


# --- a server that dies


CODE = """
import sys, time
from hub.client import push_constant
from hub.faults import REPOSITORY, STAGED
from optimum_flab.errors import FlabError
sys.setswitchinterval(1e-6)  # whatever races does so in most runs
time.sleep = lambda seconds: None
for number in range(9):
    STAGED.files[f"model-{number:05d}-of-00009.safetensors"] = bytes([number]) * 40_000
try:
    push_constant(STAGED, REPOSITORY, timeout=5)
except FlabError as error:
    print(error)
"""


def test_a_server_that_dies_during_an_upload_is_named_as_what_it_is(tmp_path, monkeypatch):
    with Hub().serving() as hub:
        hub.add(REPOSITORY, OLD)

        def die(self):
            hub.socket.close()
            self.cut()

        monkeypatch.setattr(Handler, "do_PUT", die)
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_TOKEN": RIGHT}
        environment |= {"HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        paths = (Path(__file__).parent.parent, Path(optimum_flab.__file__).parent.parent)
        environment["PYTHONPATH"] = os.pathsep.join(map(str, paths))
        ran = subprocess.run(
            [sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, timeout=120
        )
        assert ran.returncode == 0, ran.stderr
        assert "Connection refused" in ran.stdout and "check the connection" in ran.stdout
        assert "me/model is unchanged" in ran.stdout
        assert "NoneType" not in ran.stdout and "closed" not in ran.stdout


# --- a Hub that answers oddly


def said(value, status=200, **headers):
    return status, json.dumps(value).encode(), {name.replace("_", "-"): value for name, value in headers.items()}


def refused(hub, client, **instead):
    """The message of an update that gets other answers, by what their method and path hold."""
    UPDATE.prepare(hub)
    hub.instead = instead
    found = client(push_constant, STAGED, REPOSITORY)
    hub.instead = {}
    assert isinstance(found.error, FlabError), found.failure or "it was pushed"
    assert hub.state(REPOSITORY) in UPDATE.states()[0]
    return str(found.error)


@pytest.mark.parametrize(
    "account", [[1, 2], None, {}, "me", {"name": 3}, {"name": ""}, {"name": ["me"], "auth": {"accessToken": "x"}}]
)
def test_an_answer_that_names_no_account_is_refused(account, hub, client):
    message = refused(hub, client, whoami=said(account))
    assert "does not say who the token belongs to" in message and "HF_ENDPOINT" in message


@pytest.mark.parametrize("orgs", [[{"x": 1}, "team", None, {"name": 5}], 7, "team", {"name": "team"}])
def test_organisations_without_a_name_are_passed_over(orgs, hub, client):
    UPDATE.prepare(hub)
    hub.instead = {"whoami": said({"name": "me", "orgs": orgs, "auth": {"accessToken": None}})}
    client(push_constant, STAGED, REPOSITORY).result()
    assert hub.state(REPOSITORY) == UPDATE.states()[1]


@pytest.mark.parametrize(
    ("part", "answer"),
    [
        ("/refs", []),
        ("/refs", {"branches": [{"a": 1}]}),
        ("/tree/", [{"type": "file"}]),
        ("/tree/", [3]),
        ("/preupload/", []),
        ("/commit/", {"success": True}),
        ("/commit/", None),
    ],
)
def test_an_answer_that_is_not_understood_is_not_called_the_users_fault(part, answer, hub, client):
    message = refused(hub, client, **{part: said(answer)})
    assert "unexpected answer" in message and "the same command again" in message
    assert "correct this" not in message and "was refused" not in message


def test_a_repository_that_could_not_be_made_is_not_called_the_users_fault(hub, client):
    hub.reset()
    hub.instead = {"repos/create": said({"error": "conflict"}, 409)}
    message = str(client(push_constant, STAGED, REPOSITORY).error)
    assert "could not be created" in message and "the same command again" in message and "unexpected answer" in message
    assert "correct this" not in message


@pytest.mark.parametrize("status", [409, 412])
def test_a_conflict_is_somebody_elses_change(status, hub, client):
    message = refused(hub, client, **{"POST .*/commit/": said({"error": "A commit has happened since."}, status)})
    assert "somebody else" in message and "the same command again" in message and "correct this" not in message


@pytest.mark.parametrize("part", ["whoami", "/refs", "POST .*/commit/", "/lfs/objects"])
@pytest.mark.parametrize(
    "headers", [{"Retry_After": "\u00b2"}, {"Retry_After": "9" * 5000}, {"RateLimit": f'"api";r=0;t={"9" * 5000}'}]
)
def test_a_wait_that_is_no_number_is_no_wait(part, headers, hub, client):
    message = refused(hub, client, **{part: said({"error": "r"}, 429, **headers)})
    assert "int" not in message and "the same command again" in message, message


@pytest.mark.parametrize(("status", "header"), [(503, "Retry_After"), (429, "Retry_After")])
def test_the_wait_that_is_too_long_is_said(status, header, hub, client):
    message = refused(hub, client, whoami=said({"error": "r"}, status, **{header: "9999"}))
    assert "wait 9,999 seconds, and run the same command again" in message


@pytest.mark.parametrize("timeout", [math.inf, -math.inf, math.nan, 0, 1e10, 86_401])
def test_a_timeout_that_no_clock_takes_is_refused_at_once(timeout, pruned, hub, client):
    error = client(push, str(pruned), REPOSITORY, timeout=timeout).error
    assert isinstance(error, ConfigurationError) and f"timeout: {timeout}" in str(error) and hub.requests == []


# --- where the token goes


def test_the_token_goes_to_no_other_server(hub, client):
    with Hub().serving() as other:
        UPDATE.prepare(hub)
        hub.instead = {"/tree/": said([], Link=f'<{other.url}/next>; rel="next"')}
        found = client(push_constant, STAGED, REPOSITORY)
        assert other.requests == []
        assert f"{other.url}" in str(found.error) and "token" in str(found.error), found.failure
        assert hub.state(REPOSITORY) in UPDATE.states()[0]


def test_files_go_to_another_server_without_the_token(hub, client, monkeypatch):
    seen = []
    reply = Handler.do_PUT

    def note(self):
        seen.append(self.headers.get("Authorization"))
        reply(self)

    monkeypatch.setattr(Handler, "do_PUT", note)
    with Hub().serving() as other:
        UPDATE.prepare(hub)
        hub.storage, other.objects = other.url, hub.objects
        client(push_constant, STAGED, REPOSITORY).result()
        assert len(seen) == len(other.requests) > 0 and set(seen) == {None}
    assert hub.state(REPOSITORY) == UPDATE.states()[1]


def push_to_endpoint(endpoint, folder, **options):
    from huggingface_hub import constants

    constants.ENDPOINT = endpoint
    return push_to_hub(folder, REPOSITORY, **options)


def test_a_password_in_the_address_of_the_hub_is_refused_and_not_shown(pruned, hub, client):
    endpoint = hub.url.replace("http://", "http://user:pw@123@")
    found = client(push_to_endpoint, endpoint, str(pruned))
    assert isinstance(found.error, ConfigurationError) and "HF_ENDPOINT" in str(found.error), found.failure
    assert "pw@123" not in found.output and "pw@123" not in str(found.error) and hub.requests == []
    assert (
        scrubbed("at 'http://user:p@w@host/x?y=1' and https://a@b/c") == "at 'http://***@host/x' and https://***@b/c"
    )
