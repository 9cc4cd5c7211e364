"""Text that a dense model writes itself: its answers to the packaged problems.

What a model writes is not what it reads: its own programs are plainer, and its own mistakes are in them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from .formats import Formats
from .overlap import benchmarks, words
from .passages import Candidate, program_of
from .problems import PackagedProblem
from .sources import Document


ROUNDS = 32  # how often a problem is asked at most
QUESTIONS_AT_ONCE = 64
MOST_REPEATED = 0.5  # at most this share of an answer's 4-word runs may repeat an earlier one
LEAST_WORDS_TO_REPEAT = 24  # shorter answers repeat themselves by chance
# of a raw prompt, where a completion leaves the requested function
STOP_STRINGS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")


@dataclass(frozen=True)
class Question:
    """A problem as a model is asked to solve it.

    Args:
        problem ([`PackagedProblem`]): the problem.
        prompt (`str`): what the model continues, without the special tokens around every text.
        in_chat (`bool`): whether it is the beginning of a conversation, else that of a program.
        round (`int`): how often the problem was asked before.
    """

    problem: PackagedProblem
    prompt: str
    in_chat: bool
    round: int

    @property
    def stops(self) -> tuple[str, ...]:
        """The strings that end an answer."""
        return () if self.in_chat else STOP_STRINGS


@dataclass(frozen=True)
class Completion:
    """What a model answered, and whether it came to an end within its tokens."""

    text: str
    ended: bool


# from batches of questions, each of one form, to an answer of each with its number of tokens, the prompt's included;
# batch by batch, as they are asked for
Answer = Callable[[Sequence[list[Question]]], Iterator[Sequence[tuple[Completion, int]]]]


def answered(
    problems: Sequence[PackagedProblem], formats: Formats, answer: Answer, tokens: float
) -> Mapping[PackagedProblem, list[Document]]:
    """A model's answers to problems, until there are enough tokens: each problem once, then again, in conversations
    and as programs in turn.

    Args:
        problems (`Sequence[PackagedProblem]`): in random order.
        formats ([`Formats`]): those of the tokenizer.
        answer (`Callable`): writes the answers.
        tokens (`float`): how many to write, with those of the prompts.

    Returns:
        `Mapping[PackagedProblem, list[Document]]`: texts by problem, in the order of the problems.
    """
    texts: dict[PackagedProblem, list[Document]] = {}
    written = 0
    asked = list(batches(problems, formats))
    for questions, answers in zip(asked, answer(asked), strict=True):
        for question, (completion, number) in zip(questions, answers, strict=True):
            document = text_of(question, completion, formats)
            if document is not None:
                texts.setdefault(question.problem, []).append(document)
                written += number
        if written >= tokens:
            break
    return {problem: texts[problem] for problem in problems if problem in texts}


def batches(problems: Sequence[PackagedProblem], formats: Formats) -> Iterator[list[Question]]:
    """All questions of all rounds, in batches of one form and round."""
    for asked in range(ROUNDS):
        waiting: dict[bool, list[Question]] = {True: [], False: []}
        for place, problem in enumerate(problems):
            if question := ask(problem, asked, place, formats):
                of_form = waiting[question.in_chat]
                of_form.append(question)
                if len(of_form) == QUESTIONS_AT_ONCE:
                    yield of_form
                    waiting[question.in_chat] = []
        yield from filter(None, waiting.values())


def ask(problem: PackagedProblem, asked: int, place: int, formats: Formats) -> Question | None:
    """The question for a problem: every other time its instruction in a conversation, else the head of its program;
    `None` where the tokenizer has no chat template, and the program no head."""
    if formats.question is not None and ((place + asked) % 2 == 0 or not problem.prompt):
        prompt = formats.question(problem.instruction)
        return None if prompt is None else Question(problem, prompt, True, asked)
    return Question(problem, problem.prompt, False, asked) if problem.prompt else None


def text_of(question: Question, answer: Completion, formats: Formats) -> Document | None:
    """The text of a question with its answer, whose end is shown only where it came to one; `None` where it is empty,
    repeats itself, or is in a benchmark."""
    text = answer.text
    if not text.strip() or repetition(text) > MOST_REPEATED or benchmarks().overlaps(text):
        return None
    closing = formats.closing if question.in_chat and answer.ended else ""
    return Document(question.prompt + text + closing, f"{question.problem.name}:{question.round}")


def repetition(text: str) -> float:
    """Share of the runs of 4 words that occurred before; 0 for short texts."""
    tokens = words(text)
    if len(tokens) < LEAST_WORDS_TO_REPEAT:
        return 0.0
    runs = Counter(tuple(tokens[start : start + 4]) for start in range(len(tokens) - 3))
    return 1 - len(runs) / sum(runs.values())


def answer_candidate(problem: PackagedProblem, texts: Sequence[Document]) -> Candidate:
    """A problem that contributes a model's answers to it."""
    return Candidate(program_of(problem), lambda _: texts)
