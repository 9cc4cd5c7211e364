"""Requests to the Hub: what went wrong in the user's words, and nothing secret in any output."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..records.names import CARD_NAME
from ..utils.errors import FlabError, first_line, without_token
from ..utils.version import __version__


if TYPE_CHECKING:
    from huggingface_hub import HfApi


AGAIN = "run the same command again: what has arrived is not sent again"
CORRECT = "correct this, and run the same command again"
ADVICE = {
    401: f"check the token of `hf auth login` or HF_TOKEN, and {AGAIN}",
    403: f"check that the token of `hf auth login` or HF_TOKEN may do that, and {AGAIN}",
    409: f"somebody else changed it at the same time; {AGAIN}",
    412: f"somebody else changed it meanwhile, so nothing was committed; {AGAIN}",
    429: f"the Hub received too many requests; wait some minutes, and {AGAIN}",
}


# one that was named; it is not kept in any object that outlives the call
_named: ContextVar[str | None] = ContextVar("token", default=None)


@contextmanager
def with_token(token: str | None) -> Iterator[None]:
    """Talks to the Hub with a token within a block; `None`: with that of the standard places."""
    before = _named.set(token)
    try:
        yield
    finally:
        _named.reset(before)


def hub_token() -> str | None:
    """The token that the Hub is talked to with."""
    from huggingface_hub import get_token

    return _named.get() or get_token()


def hub_client() -> HfApi:
    """The client, with our user agent and [`hub_token`]. It logs neither signed addresses nor tokens."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils import logging as hub_logging

    for handler in hub_logging.get_logger().handlers:
        handler.addFilter(_scrub)
    return HfApi(token=_named.get(), library_name="optimum-flab", library_version=__version__)


@contextmanager
def translate_errors(failed: str, unanswered: str | None = None) -> Iterator[None]:
    """Turns what the library raises within this context into a [`FlabError`].

    Args:
        failed (`str`): what is the case then; the message begins with it.
        unanswered (`str`, *optional*): the same where the Hub may have done what was asked, since it did not refuse.
    """
    try:
        yield
    except FlabError:
        raise
    except Exception as error:  # connection, Hub and file errors come from several libraries
        failure = failure_of(error)
        state = failed if failure.refused or unanswered is None else unanswered
        raise FlabError(f"{state}: {failure.reason}; {failure.advice}") from None


def _scrub(record: logging.LogRecord) -> bool:
    record.msg, record.args = redact(record.getMessage()), ()
    return True


class Failure(NamedTuple):
    """What happened to a request, what to do about it, and whether it certainly had no effect."""

    reason: str
    advice: str
    refused: bool = True


def failure_of(error: Exception) -> Failure:
    """What an error of the library means."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, GatedRepoError):
        return Failure(
            "it is gated", f"accept its terms on its page on the Hub with the account of the token, and {AGAIN}"
        )
    if isinstance(error, RepositoryNotFoundError):
        return Failure("there is no such repository any more, or the token may not see it", f"check both, and {AGAIN}")
    if isinstance(error, RevisionNotFoundError):
        return Failure("it has no such branch", f"check its name, and {AGAIN}")
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        said = error.server_message or error.response.headers.get("X-Error-Message") or first_line(error)
        advice = ADVICE.get(status, CORRECT if status < 500 else f"wait, and {AGAIN}")
        return Failure(f"the Hub answered {status}: {redact(said)}", advice, refused=status < 500)
    if isinstance(error, (KeyError, TypeError, AttributeError)):
        advice = f"check that HF_ENDPOINT is the Hub that you mean, and {AGAIN}"
        return Failure(f"its answer was not understood ({error!r})", advice, refused=False)
    if isinstance(error, ValueError) and not isinstance(error, json.JSONDecodeError):
        return Failure(redact(" ".join(str(error).split())), CORRECT, refused=False)
    said = redact(first_line(error))
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):  # only says with which file
        cause = failure_of(error.__cause__)
        return Failure(f"{said.rstrip('.')}: {cause.reason}", cause.advice, refused=False)
    return Failure(said, f"check the connection, and {AGAIN}", refused=False)


def redact(text: str) -> str:
    """Text without tokens, and without passwords and queries in addresses: those of storage are signed."""
    text = re.sub(r"(https?://)[^\s/?'\"]*@", r"\1***@", text)
    text = re.sub(r"(https?://[^\s?'\"]+)\?[^\s'\"]+", r"\1", text)
    text = without_token(text, hub_token())
    return re.sub(r"\bhf_(oauth_[\w.-]{6,}|[A-Za-z0-9]{6,})", "***", text)


def hub_card(repo_id: str, revision: str | None = None) -> tuple[str | None, str]:
    """The text of a repository's card; `None` where there is none, with the reason."""
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        path = hub_client().hf_hub_download(repo_id, CARD_NAME, revision=revision)
        return Path(path).read_text(encoding="utf-8"), ""
    except LocalEntryNotFoundError as error:  # also an EntryNotFoundError, but from a client without a connection
        return None, f"the Hub cannot be reached ({redact(first_line(error))})"
    except EntryNotFoundError:
        return None, "it has none"
    except Exception as error:  # connection errors come from several libraries
        return None, failure_of(error).reason
