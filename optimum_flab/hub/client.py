"""Requests to the Hub: what went wrong in the user's words, and nothing secret in any output."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from ..records.names import CARD_NAME
from ..utils.errors import FlabError, first_line, without_token
from ..utils.progress import duration, say
from ..utils.version import __version__


if TYPE_CHECKING:
    from huggingface_hub import HfApi


T = TypeVar("T")

AGAIN = "run the same command again"
CORRECT = "correct this, and run the same command again"
ADVICE = {
    401: f"check the token of `hf auth login` or HF_TOKEN, and {AGAIN}",
    403: f"check that the token of `hf auth login` or HF_TOKEN may do that and that there is room, and {AGAIN}",
    409: f"somebody else changed it at the same time; {AGAIN}",
    412: f"somebody else changed it meanwhile, so nothing was committed; {AGAIN}",
}
SILENCE = 60.0  # seconds without a sign of progress after which the user is told
# how Xet's client tells of an answer; it keeps no words of the server
XET_ANSWER = re.compile(r"HTTP status \w+ error \((\d{3}[^)]*)\)(?:, domain: |.*\()(https?://[^\s)]+)")
WITHOUT_XET = "with HF_HUB_DISABLE_XET=1 files are sent without Xet, the Hub's storage"


# one that was named; it is not kept in any object that outlives the call
_named: ContextVar[str | None] = ContextVar("token", default=None)
_secrets: list[str | None] = []  # those that are named now, for the threads of the library, which know no context


@contextmanager
def with_token(token: str | None) -> Iterator[None]:
    """Talks to the Hub with a token within a block; `None`: with that of the standard places."""
    before = _named.set(token)
    _secrets.append(token)
    try:
        yield
    finally:
        _secrets.remove(token)
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


def read_token() -> str | None:
    """The token, if there is one.

    Raises:
        [`FlabError`]: it cannot be read, or has characters that no token has: the Hub would only say that it is wrong.
    """
    with translate_errors("the token of `hf auth login` or HF_TOKEN cannot be read"):
        token = hub_token()
    if token is not None and not re.fullmatch(r"[\w.=/+~-]+", token, re.ASCII):
        raise FlabError(
            "the token of `hf auth login`, HF_TOKEN or `token` has quotes, spaces or other characters that no token"
            " has; set it again without them"
        )
    return token


@contextmanager
def translate_errors(failed: str, unanswered: str | None = None, hint: str = "") -> Iterator[None]:
    """Turns what the library raises within this context into a [`FlabError`], and says it if the Hub is silent.

    Args:
        failed (`str`): what is the case then; the message begins with it.
        unanswered (`str`, *optional*): the same where the Hub may have done what was asked, since it did not refuse.
        hint (`str`): what else may help if the Hub is silent, or the connection fails.
    """
    try:
        with _told_of_silence(hint):
            yield
    except FlabError:
        raise
    except Exception as error:  # connection, Hub and file errors come from several libraries
        failure = failure_of(error)
        state = failed if failure.refused or unanswered is None else unanswered
        was_answered = getattr(error, "response", None) is not None
        further = f"; {hint}" if hint and isinstance(error, OSError) and not was_answered else ""
        raise FlabError(f"{state}: {failure.reason}; {failure.advice}{further}") from None


@contextmanager
def _told_of_silence(hint: str) -> Iterator[None]:
    """While the block runs, the user is told whenever no bar has moved for a while: the library waits for an answer
    without an end, and Xet repeats its requests for minutes without a word."""
    done = threading.Event()

    def watch() -> None:
        moved, since = _moved(), time.monotonic()
        told = 0
        while not done.wait(SILENCE / 60):
            now = _moved()
            silent = time.monotonic() - since
            if now != moved:
                moved, since = now, time.monotonic()
                told = 0
            elif silent >= SILENCE * (told + 1):
                told += 1
                further = f"; {hint}" if hint else ""
                known = "no progress" if now is not None else "waiting for the Hub, and no bar shows progress,"
                say(
                    f"{known} for {duration(silent)}. You can interrupt this, check the connection,"
                    f" and {AGAIN}{further}"
                )

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def interruptible(work: Callable[[], T]) -> T:
    """What a call returns. Ctrl-C ends it at once, though Xet's client notices no signal while it waits: it is made in
    a thread of its own, which ends with the process."""
    found: Future[T] = Future()

    def run() -> None:
        try:
            found.set_result(work())
        except BaseException as error:
            found.set_exception(error)

    thread = threading.Thread(target=copy_context().run, args=(run,), daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.5)  # without an end, Windows would not interrupt it
    return found.result()


def _moved() -> float | None:
    """What the bars that are shown have counted; `None` where none is."""
    from tqdm import tqdm

    with tqdm.get_lock():
        bars = list(getattr(tqdm, "_instances", ()))
    return sum(bar.n for bar in bars) if bars else None


def without_xet() -> str:
    """What may help where files do not arrive and Xet sends them; empty where it does not."""
    from huggingface_hub import constants

    return WITHOUT_XET if find_spec("hf_xet") and not constants.HF_HUB_DISABLE_XET else ""


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
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, LocalEntryNotFoundError):  # a file is neither here nor was it answered for
        if isinstance(error.__cause__, HfHubHTTPError):
            return failure_of(error.__cause__)
        unreached = redact(first_line(error.__cause__ or error))
        return Failure(f"the Hub cannot be reached ({unreached})", f"check the connection, and {AGAIN}", refused=False)
    if isinstance(error, GatedRepoError):
        return Failure(
            "it is gated", f"accept its terms on its page on the Hub with the account of the token, and {AGAIN}"
        )
    if isinstance(error, RepositoryNotFoundError):
        return Failure("there is no such repository any more, or the token may not see it", f"check both, and {AGAIN}")
    if isinstance(error, RevisionNotFoundError):
        return Failure("it has no such branch", f"check its name, and {AGAIN}")
    if isinstance(error, HfHubHTTPError):
        status, headers = error.response.status_code, error.response.headers
        # of a limit the library says how its caller may avoid it
        known = "Too Many Requests" if status == 429 else first_line(error)
        said = error.server_message or headers.get("X-Error-Message") or known
        advice = _advice(status, headers)
        return Failure(f"the Hub answered {status}: {redact(said)}", advice, refused=status < 500)
    if isinstance(error, (KeyError, TypeError, AttributeError)):
        advice = f"check that HF_ENDPOINT is the Hub that you mean, and {AGAIN}"
        return Failure(f"its answer was not understood ({error!r})", advice, refused=False)
    if isinstance(error, UnicodeDecodeError):
        return Failure("it is not UTF-8 text", CORRECT, refused=False)
    if isinstance(error, ValueError) and not isinstance(error, json.JSONDecodeError):
        return Failure(redact(" ".join(str(error).split())), CORRECT, refused=False)
    said = redact(first_line(error))
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):  # only says with which file
        cause = failure_of(error.__cause__)
        return Failure(f"{said.rstrip('.')}: {cause.reason}", cause.advice, refused=False)
    if answer := XET_ANSWER.search(said):
        advice = _advice(int(answer[1][:3]), {})
        return Failure(f"Xet, the Hub's storage, answered {answer[1]} at {answer[2]}", advice, refused=False)
    return Failure(said, f"check the connection, and {AGAIN}", refused=False)


def _advice(status: int, headers: Mapping[str, str]) -> str:
    """What to do about an answer."""
    from huggingface_hub.utils import parse_ratelimit_headers

    if status == 429 or status >= 500:
        limit = parse_ratelimit_headers(headers)
        after = headers.get("Retry-After", "").strip() or (str(limit.reset_in_seconds) if limit else "")
        if after.isdigit():
            return f"wait {duration(int(after))}, and {AGAIN}"
        until = f" until {after}" if after else " some minutes" if status == 429 else ""
        return f"wait{until}, and {AGAIN}"
    return ADVICE.get(status, CORRECT)


def redact(text: str) -> str:
    """Text without tokens, and without passwords and queries in addresses: those of storage are signed."""
    text = re.sub(r"(https?://)[^\s/?'\"]*@", r"\1***@", text)
    text = re.sub(r"(https?://[^\s?'\"]+)\?[^\s'\"]+", r"\1", text)
    for token in (*_secrets, hub_token()):
        text = without_token(text, token)
    # tokens have capitals and digits, names of packages have neither
    return re.sub(r"\bhf_(oauth_[\w.-]{6,}|(?=[a-z]*[A-Z0-9])[A-Za-z0-9]{6,})", "***", text)


def read_hub_card(repo_id: str, revision: str | None = None) -> str:
    """The text of a repository's card. Raises what the library raises, see [`translate_errors`]."""
    path = hub_client().hf_hub_download(repo_id, CARD_NAME, revision=revision)
    return Path(path).read_text(encoding="utf-8")


def hub_card(repo_id: str, revision: str | None = None) -> tuple[str | None, str]:
    """The text of a repository's card; `None` where there is none, with the reason."""
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return read_hub_card(repo_id, revision), ""
    except Exception as error:  # connection errors come from several libraries
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            return None, "it has none"
        return None, failure_of(error).reason
