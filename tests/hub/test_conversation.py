"""Servers that refuse, keep silent, ask to wait, or die: what becomes of the requests of a push."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hub.client import RIGHT, push_constant
from hub.faults import OLD, REPOSITORY, SCENARIOS, STAGED, requests_of
from hub.loopback import Handler, Hub
from huggingface_hub import get_session

from optimum_flab.errors import FlabError
from optimum_flab.hub.conversation import LONGEST_WAIT, advice, answers_within, asked_wait, passing, response_of


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
            assert get_session().headers["x-mine"] == "1" and "impatient" in repr(get_session().send)
        assert get_session().headers["x-mine"] == "1" and "impatient" not in repr(get_session().send)
        shared = own()
        send = shared.send
        set_client_factory(lambda: shared)
        for _ in range(2):
            with answers_within(7):
                assert get_session() is shared and "impatient" in repr(shared.send)
            assert shared.send == send
    finally:
        set_client_factory(_http.default_client_factory)


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
    assert "connection" not in str(found.error) and "asked too often" in str(found.error)
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
    assert "correct that" in advice(wrapped(ValueError()))


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
        environment |= {"PYTHONPATH": str(Path(__file__).parent.parent)}
        ran = subprocess.run(
            [sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, timeout=120
        )
        assert ran.returncode == 0, ran.stderr
        assert "Connection refused" in ran.stdout and "check the connection" in ran.stdout
        assert "me/model is as it was" in ran.stdout
        assert "NoneType" not in ran.stdout and "closed" not in ran.stdout
