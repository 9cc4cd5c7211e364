"""Failures of requests to the Hub: what happened, whether to retry, and what to do about it."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterator
from typing import Any

from ..errors import FlabError


LONGEST_WAIT = 330  # seconds that the Hub may ask to wait; it counts requests in windows of 300
PASSING = (408, 429, 500, 502, 503, 504)
logger = logging.getLogger(__name__)


class told:
    """Turns what the client raises into a [`FlabError`] that begins with what was attempted."""

    def __init__(self, attempt: str):
        self.attempt = attempt

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, FlabError):
            # connection, Hub and file errors come from several libraries
            raise FlabError(f"{self.attempt}: {described(error)}\n{advice(error)}") from None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and what it was raised from: the client wraps some."""
    while error is not None:
        yield error
        error = error.__cause__


def response_of(error: BaseException) -> Any:
    """The Hub's response; `None` where there was none."""
    found = (getattr(link, "response", None) for link in causes(error))
    return next((response for response in found if response is not None), None)


def status_of(error: BaseException) -> int | None:
    """The status that the Hub answered with."""
    return getattr(response_of(error), "status_code", None)


def passing(error: BaseException) -> bool:
    """Whether an error may be transient: a connection error, a truncated reply, a busy Hub."""
    from huggingface_hub.errors import HTTPError

    status, links = status_of(error), list(causes(error))
    # a reply with another status that does not parse was truncated
    if any(isinstance(link, json.JSONDecodeError) for link in links):
        return True
    if status is not None:
        return status in PASSING
    return any(isinstance(link, (HTTPError, TimeoutError, ConnectionError)) for link in links)


def silent(error: BaseException) -> bool:
    """Whether the Hub did not answer at all, see [`answers_within`]."""
    return any(isinstance(link, TimeoutError) for link in causes(error))


def misunderstood(error: BaseException) -> bool:
    """Whether the Hub's answer was so unexpected that its client failed to handle it."""
    return any(isinstance(link, (KeyError, IndexError, TypeError, AttributeError)) for link in causes(error))


def refused_unread(error: BaseException) -> bool:
    """Whether the Hub certainly did nothing: it was asked too often, or no connection was made at all."""
    unmade = ("ConnectError", "ConnectTimeout")
    return status_of(error) == 429 or any(type(link).__name__ in unmade for link in causes(error))


def asked_wait(response: Any) -> int | None:
    """Seconds that the Hub asks to wait.

    Args:
        response (`httpx.Response`, *optional*): its response.
    """
    from huggingface_hub.utils import parse_ratelimit_headers

    headers = getattr(response, "headers", None) or {}
    limit = parse_ratelimit_headers(headers)
    if getattr(response, "status_code", None) == 429 and limit is not None and limit.remaining == 0:
        return limit.reset_in_seconds + 1  # it counts whole seconds
    after = headers.get("Retry-After", "").strip()
    return int(after) if after.isdigit() and is_plain(after) else None


def pause(error: BaseException, otherwise: float | None) -> bool:
    """Waits before a request is retried: as long as the Hub asks, with a warning, or else `otherwise`.

    Args:
        otherwise (`float`, *optional*): seconds; `None` where no attempt is left.

    Returns:
        `bool`: whether to retry it; not where the Hub asks for longer than anybody would wait.
    """
    asked = asked_wait(response_of(error))
    if otherwise is None or (asked or 0) > LONGEST_WAIT:
        return False
    if asked is not None:
        logger.warning("the Hub asks to wait %d seconds before the next request", asked)
    time.sleep(otherwise if asked is None else asked)
    return True


def advice(error: BaseException) -> str:
    """What to do about an error."""
    status, again = status_of(error), "run the same command again: it checks first, and sends nothing twice"
    if status in (401, 403):
        return "check that the token of `hf auth login` or HF_TOKEN may write there, and run the command again"
    wait = asked_wait(response_of(error))
    if status == 429 or wait:
        return f"wait {f'{wait:,} seconds' if wait else 'some minutes'}, and {again}"
    if silent(error):
        return f"check the connection, or allow the Hub more time with `timeout`, and {again}"
    if misunderstood(error):
        return f"check that HF_ENDPOINT is the Hub that you mean, and {again}"
    if passing(error) or (isinstance(error, OSError) and status is None):
        return f"check the connection, and {again}"
    if status in (409, 412):
        return f"somebody else changed it at the same time; {again}"
    return "correct this, and run the same command again"


def described(error: BaseException) -> str:
    """An error on one line, with its causes, without secrets."""
    if status_of(error) == 429:
        return "the Hub received too many requests from this account or address"
    parts: list[str] = []
    for link in causes(error):
        if misunderstood(link):
            parts.append(f"unexpected answer ({link!r})")
            break
        text = " ".join(str(link).split()).rstrip(".") or type(link).__name__
        if not any(text in part for part in parts):
            parts.append(text)
        if len(parts) == 3 or isinstance(link, TimeoutError):
            break
    return scrubbed(": ".join(parts))


def scrubbed(text: str) -> str:
    """Text without tokens, and without passwords and queries in URLs: storage URLs are signed."""
    from huggingface_hub import get_token

    text = re.sub(r"(https?://)[^\s/?'\"]*@", r"\1***@", text)
    text = re.sub(r"(https?://[^\s?'\"]+)\?[^\s'\"]+", r"\1", text)
    token = get_token()
    text = text.replace(token, "***") if token else text
    return re.sub(r"\bhf_[A-Za-z0-9]{6,}", "***", text)


def is_plain(header: str) -> bool:
    """Whether a client can parse the numbers in a header."""
    return header.isascii() and re.search(r"\d{10}", header) is None
