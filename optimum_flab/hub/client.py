"""The client of the Hub's library, with our user agent, and a limit on how long it waits."""

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


# `huggingface_hub` has one client per process
_one_at_a_time = threading.Lock()


def hub_client() -> HfApi:
    """The client, with our user agent.

    Raises:
        [`ConfigurationError`]: the address of the Hub holds a password, which would be sent in place of the token.
    """
    from huggingface_hub import HfApi, constants

    if "@" in urlsplit(constants.ENDPOINT).netloc:
        raise ConfigurationError(
            f"HF_ENDPOINT ({scrubbed(constants.ENDPOINT)}) holds a user name, which would be sent in place of the"
            " token; remove what precedes the @"
        )
    return HfApi(library_name="optimum-flab", library_version=__version__)


@contextmanager
def answers_within(seconds: float) -> Iterator[None]:
    """While the block runs, a request of `huggingface_hub` fails if it gets no answer for so many seconds, or if it
    would send the token to a server other than the Hub.

    An answer that trickles in may take as long as it needs. By default the client waits for ever, and asks a silent
    server six times. It is also recreated after a failed connection, so the limit is set where clients are created.

    Args:
        seconds (`float`): how long there may be no answer.
    """
    from huggingface_hub import set_client_factory

    def limited() -> Any:
        client = before()
        if client not in patient:  # a factory may return the same client each time
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
    """Sends requests with a time limit, whatever limits they have; one without an answer raises a `TimeoutError`,
    which the client does not retry. One that would send the token elsewhere raises a [`FlabError`]."""
    from huggingface_hub import constants
    from huggingface_hub.utils import hf_raise_for_status

    def sent(request: Any, **options: Any) -> Any:
        # addresses that the Hub returns, such as that of a next page, are requested with the token too
        asked, hub = request.url, type(request.url)(constants.ENDPOINT)
        same = (asked.scheme, asked.host, asked.port) == (hub.scheme, hub.host, hub.port)
        if "authorization" in request.headers and not same:
            raise FlabError(
                f"{constants.ENDPOINT} names an address on another server, {scrubbed(str(request.url))}, which would"
                " receive your token; check that HF_ENDPOINT is the Hub that you mean"
            )
        # some requests have their own limits, or none on purpose
        limits = dict.fromkeys(("connect", "read", "write", "pool"), seconds)
        request.extensions = {**request.extensions, "timeout": limits}
        try:
            response = send(request, **options)
        except Exception as error:
            # from httpx or its successor, whichever the client is built on
            if any(kind.__name__ == "TimeoutException" for kind in type(error).__mro__):
                raise TimeoutError(f"no answer within {seconds:g} seconds") from error
            if any(isinstance(link.__context__, socket.gaierror) for link in causes(error)):
                # no network; the client would try five more times
                raise ConnectionError(f"the host name {request.url.host} cannot be resolved") from error
            raise
        for name in ("retry-after", "ratelimit"):
            if not is_plain(response.headers.get(name, "")):
                del response.headers[name]  # the client would parse it as a number
        if response.status_code >= 400 and (asked_wait(response) or 0) > LONGEST_WAIT:
            hf_raise_for_status(response)  # the client would wait, however long that is
        return response

    return sent
