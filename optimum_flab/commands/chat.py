"""`optimum-cli flab chat`."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from typing import TYPE_CHECKING

from ..utils.compat import ArgumentGroup
from ..utils.errors import ConfigurationError, FlabError, printable
from . import arguments
from .base import FlabVerb


if TYPE_CHECKING:
    from ..running.conversation import Conversation


CLEAR, QUIT = "/clear", "/quit"
KEYS = (
    f"{CLEAR} forgets the conversation; {QUIT} or Ctrl-D ends; Ctrl-C ends an answer; a line that ends in a backslash"
    " goes on in the next"
)


class ChatCommand(FlabVerb):
    """Talk to a model in the terminal, with another one beside it."""

    @staticmethod
    def add_arguments(required: ArgumentGroup, optional: ArgumentGroup) -> None:
        required.add_argument("model", help="the model, pruned or dense: a local folder, a Hub id, or a GGUF file")
        arguments.add(optional, "--revision", "--trust-remote-code", "--family")
        arguments.add(optional, "--baseline", "--baseline-revision", "--device")
        optional.add_argument(
            "--max-new-tokens",
            type=int,
            default=512,
            metavar="N",
            help="maximum number of tokens of an answer (default: 512)",
        )
        optional.add_argument(
            "--temperature", type=float, default=0.0, help="sampling temperature; 0: the likeliest token (default: 0)"
        )
        optional.add_argument(
            "--raw", action="store_true", help="continue each text, without the chat template (default: answer)"
        )

    def execute(self) -> None:
        args = self.args
        if args.max_new_tokens < 1:
            raise ConfigurationError(f"max_new_tokens: {args.max_new_tokens} is less than 1")
        if not 0 <= args.temperature < float("inf"):
            raise ConfigurationError(f"temperature: {args.temperature} is neither 0 nor a positive number")
        models = {args.baseline: args.baseline_revision, args.model: args.revision}
        sides = {name: self.conversation(name, revision) for name, revision in models.items() if name is not None}
        for name, side in sides.items():
            if side.continues:
                why = "raw text" if args.raw else "it has no chat template"
                print(f"{name} continues each text instead of answering it ({why})", file=sys.stderr)
        for text in typed_texts():
            if text == QUIT:
                return
            if text == CLEAR:
                for side in sides.values():
                    side.turns.clear()
            elif text.strip():
                try:
                    show(text, sides)
                except FlabError as error:
                    if not sys.stdin.isatty():
                        raise
                    # what was said before is not lost
                    print(printable(f"{error} ({CLEAR} forgets the conversation)"), file=sys.stderr)

    def conversation(self, name: str, revision: str | None) -> Conversation:
        """A conversation with a model that is loaded for it."""
        args = self.args

        from ..checkpoints.loading import load_dense
        from ..running.conversation import Conversation
        from ..running.placement import runnable

        options = {"trust_remote_code": args.trust_remote_code, "family": args.family, "device": args.device}
        loaded = load_dense(name, revision=revision, dtype="auto", **options)
        model = runnable(loaded.model, loaded.family)
        limits = args.max_new_tokens, args.temperature
        return Conversation(model, loaded.tokenizer, loaded.family, *limits, raw=args.raw)


def typed_texts() -> Iterator[str]:
    """What is typed, or stands in standard input, until it ends: lines, and what a backslash joins to them."""
    if sys.stdin is None:  # it was closed
        return
    with suppress(ImportError):
        import readline  # noqa: F401  what makes lines that are typed editable
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    if is_terminal := sys.stdin.isatty():
        print(KEYS, file=sys.stderr)
    text = ""
    with suppress(EOFError):
        while True:
            text += input("> " if is_terminal and not text else "")
            if text.endswith("\\"):
                text = f"{text[:-1]}\n"
            else:
                yield text
                text = ""


def show(text: str, sides: Mapping[str, Conversation]) -> None:
    """Print the answers to a text as they are written, one after the other with their names where there are several,
    until a user at a terminal interrupts one."""
    for name, side in sides.items():
        if len(sides) > 1:
            print(f"[{name}]")
        with closing(side.answer(text)) as pieces:
            try:
                for piece in pieces:
                    # without what could control a terminal
                    print("\n".join(map(printable, piece.expandtabs(4).split("\n"))), end="", flush=True)
            except KeyboardInterrupt:
                if not sys.stdin.isatty():
                    raise
        print("\n")
