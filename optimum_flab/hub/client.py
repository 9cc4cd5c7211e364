"""The client of the Hub's library, under our name, and a limit on how long it waits."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from .. import __version__
from ..compat import client_factory
from ..errors import ConfigurationError, FlabError
from .failures import LONGEST_WAIT, asked_wait, causes, is_plain, scrubbed


if TYPE_CHECKING:
    from huggingface_hub import HfApi


# the client of `huggingface_hub` is one for the process
_one_at_a_time = threading.Lock()


def hub_client() -> HfApi:
    """The client, under our name.

    Raises:
        [`ConfigurationError`]: the address of the Hub holds a password, which would go in the token's place.
    """
    from huggingface_hub import HfApi, constants

    if "@" in urlsplit(constants.ENDPOINT).netloc:
        raise ConfigurationError(
            f"HF_ENDPOINT ({scrubbed(constants.ENDPOINT)}) holds a user name, which would be sent in place of the"
            " token; leave out what stands before the @"
        )
    return HfApi(library_name="optimum-flab", library_version=__version__)


@contextmanager
def answers_within(seconds: float) -> Iterator[None]:
    """While the block runs, a request of `huggingface_hub` fails that gets no answer for so many seconds, or that
    would take the token to another server than the Hub.

    An answer that comes drop by drop goes on for as long as it drips. The client of its own waits for ever, and asks a
    silent server six times. It is also made anew after a connection could not be made, so that the limit is set where
    clients are made.

    Args:
        seconds (`float`): without an answer.
    """
    from huggingface_hub import set_client_factory

    def limited() -> Any:
        client = before()
        if client not in patient:  # a factory may give one client to all
            patient[client] = client.send
            setattr(client, "send", guarded(client.send, seconds))  # noqa: B010
        return client

    with _one_at_a_time:
        before = client_factory()
        patient: dict[Any, Callable[..., Any]] = {}
        set_client_factory(limited)
        try:
            yield
        finally:
            set_client_factory(before)
            for client, send in patient.items():
                client.send = send


def guarded(send: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    """Sends requests with a limit of time, whatever they come with; one without an answer raises a `TimeoutError`,
    which the client does not try again. One that takes the token elsewhere raises a [`FlabError`]."""
    from huggingface_hub import constants
    from huggingface_hub.utils import hf_raise_for_status

    def sent(request: Any, **options: Any) -> Any:
        # addresses that the Hub gives, such as that of a next page, are asked with the token too
        asked, hub = request.url, type(request.url)(constants.ENDPOINT)
        same = (asked.scheme, asked.host, asked.port) == (hub.scheme, hub.host, hub.port)
        if "authorization" in request.headers and not same:
            raise FlabError(
                f"{constants.ENDPOINT} names an address on another server, {scrubbed(str(request.url))}, which would"
                " get your token; check that HF_ENDPOINT is the Hub that you mean"
            )
        # some requests come with limits of their own, or with none on purpose
        limits = dict.fromkeys(("connect", "read", "write", "pool"), seconds)
        request.extensions = {**request.extensions, "timeout": limits}
        try:
            response = send(request, **options)
        except Exception as error:
            # of httpx or its successor, whichever the client is built on
            if any(kind.__name__ == "TimeoutException" for kind in type(error).__mro__):
                raise TimeoutError(f"no answer within {seconds:g} seconds") from error
            if any(isinstance(link.__context__, socket.gaierror) for link in causes(error)):
                # without a network; the client would ask five times more
                raise ConnectionError(f"the name {request.url.host} is not known here") from error
            raise
        for name in ("retry-after", "ratelimit"):
            if not is_plain(response.headers.get(name, "")):
                del response.headers[name]  # the client would take it for a number
        if response.status_code >= 400 and (asked_wait(response) or 0) > LONGEST_WAIT:
            hf_raise_for_status(response)  # the client would wait, however long it is
        return response

    return sent
