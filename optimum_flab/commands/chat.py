"""`optimum-cli flab chat`."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from shutil import get_terminal_size
from typing import TYPE_CHECKING

from ..utils.compat import ArgumentGroup
from ..utils.errors import ConfigurationError, printable
from . import arguments
from .base import FlabVerb


if TYPE_CHECKING:
    from ..running.conversation import Conversation


WIDE = 100  # columns of a terminal that has room for two answers side by side
GAP = " | "
CLEAR, QUIT = "/clear", "/quit"
HELP = (
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
            "--max-new-tokens", type=int, default=512, metavar="N", help="tokens of an answer, at most (default: 512)"
        )
        optional.add_argument(
            "--temperature",
            type=float,
            default=0.0,
            metavar="T",
            help="temperature of sampling; 0: always the likeliest token (default: 0)",
        )
        optional.add_argument(
            "--raw",
            action="store_true",
            help="continue each text as it stands, as models without a chat template do (default: answer)",
        )

    def execute(self) -> None:
        args = self.args
        if args.max_new_tokens < 1:
            raise ConfigurationError(f"max_new_tokens: {args.max_new_tokens} is less than 1")
        if not 0 <= args.temperature < float("inf"):
            raise ConfigurationError(f"temperature: {args.temperature} is not 0 or a positive number")
        sides = {}
        if args.baseline is not None:
            sides[args.baseline] = self.conversation(args.baseline, args.baseline_revision)
        sides[args.model] = self.conversation(args.model, args.revision)
        for name, side in sides.items():
            if side.continues:
                why = "raw text" if args.raw else "it has no chat template"
                print(f"{name} continues each text by itself, and answers nothing ({why})", file=sys.stderr)
        if sys.stdin.isatty():
            print(HELP, file=sys.stderr)
        for text in typed_texts():
            if text == CLEAR:
                for side in sides.values():
                    side.turns.clear()
            elif text == QUIT:
                return
            elif text.strip():
                self.show(text, sides)

    def conversation(self, name: str, revision: str | None) -> Conversation:
        args = self.args

        from ..checkpoints.loading import load_dense
        from ..running.conversation import Conversation

        loaded = load_dense(
            name,
            revision=revision,
            trust_remote_code=args.trust_remote_code,
            family=args.family,
            device=args.device,
            dtype="auto",
        )
        limits = args.max_new_tokens, args.temperature
        return Conversation(loaded.model, loaded.tokenizer, loaded.family, *limits, raw=args.raw)

    def show(self, text: str, sides: Mapping[str, Conversation]) -> None:
        """Print the answers to a text as they are written; a user at a terminal may end them, and goes on after an
        answer that cannot be given."""
        with ExitStack() as closed:
            answers = {name: closed.enter_context(closing(side.answer(text))) for name, side in sides.items()}
            try:
                for piece in shown(answers, get_terminal_size().columns):
                    print(piece, end="", flush=True)
            except KeyboardInterrupt:
                if not sys.stdin.isatty():
                    raise
            except ConfigurationError as error:
                if not sys.stdin.isatty():
                    raise
                print(f"{error}; {CLEAR} begins anew", file=sys.stderr)
        print("\n")


def typed_texts() -> Iterator[str]:
    """The texts that are typed, or are the lines of standard input, until it ends."""
    with suppress(ImportError):
        import readline  # noqa: F401  what makes lines that are typed editable
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    first, next_line = ("> ", ". ") if sys.stdin.isatty() else ("", "")
    lines: list[str] = []
    with suppress(EOFError):
        while True:
            line = input(next_line if lines else first)
            goes_on = line.endswith("\\")
            lines.append(line.removesuffix("\\"))
            if not goes_on:
                yield "\n".join(lines)
                lines = []
    if lines:
        yield "\n".join(lines)


def shown(answers: Mapping[str, Iterator[str]], width: int) -> Iterator[str]:
    """What is printed of answers, by the names of their models, on a terminal of some width."""
    texts = {
        name: ("\n".join(map(printable, piece.expandtabs(4).split("\n"))) for piece in answer)
        for name, answer in answers.items()
    }
    if len(texts) == 1:
        yield from texts.popitem()[1]
    elif width >= WIDE:
        yield from side_by_side(texts, (width - len(GAP) * (len(texts) - 1)) // len(texts))
    else:
        for number, (name, pieces) in enumerate(texts.items()):
            yield "\n\n" * (number > 0) + f"[{name}]\n"
            yield from pieces


def side_by_side(texts: Mapping[str, Iterator[str]], width: int) -> Iterator[str]:
    """Lines of text in columns, each as soon as it is complete in every column."""
    said, going, printed = dict.fromkeys(texts, ""), list(texts), 0
    yield GAP.join(f"[{name[: width - 2]}]".ljust(width) for name in texts).rstrip()
    while True:
        columns = {name: rows(text, width) for name, text in said.items()}
        # the last row of a text that goes on may grow
        complete = min(len(columns[name]) - 1 for name in going) if going else max(map(len, columns.values()))
        for number in range(printed, complete):
            cells = (column[number] if number < len(column) else "" for column in columns.values())
            yield "\n" + GAP.join(cell.ljust(width) for cell in cells).rstrip()
        printed = max(printed, complete)
        if not going:
            return
        behind = min(going, key=lambda name: len(columns[name]))
        piece = next(texts[behind], None)
        said[behind] += piece or ""
        if piece is None:
            going.remove(behind)


def rows(text: str, width: int) -> list[str]:
    """The lines of a text, cut after a space where they are too long. More text changes only the last one."""
    found = []
    for line in text.split("\n"):
        while len(line) > width:
            end = line.rfind(" ", 0, width) + 1 or width
            found.append(line[:end])
            line = line[end:]
        found.append(line)
    return found
