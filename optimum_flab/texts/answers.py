"""Text that a dense model writes itself: its answers to the packaged problems.

What a model writes is not what it reads: its own programs are plainer, and its own mistakes are in them. Statistics
collected on its answers fit what it will write after pruning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from .formats import Formats
from .overlap import benchmarks
from .passages import Candidate, program_of
from .problems import Problem
from .sources import Document


ROUNDS = 4  # how often a problem is asked at most
QUESTIONS_AT_ONCE = 64
# of a raw prompt, where a completion leaves the requested function
STOP_STRINGS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")


@dataclass(frozen=True)
class Question:
    """A problem as a model is asked to solve it.

    Args:
        problem ([`Problem`]): the problem.
        prompt (`str`): what the model continues, without the special tokens around every text.
        in_chat (`bool`): whether it is the beginning of a conversation, else that of a program.
        round (`int`): how often the problem was asked before.
    """

    problem: Problem
    prompt: str
    in_chat: bool
    round: int

    @property
    def stops(self) -> tuple[str, ...]:
        """The strings that end an answer."""
        return () if self.in_chat else STOP_STRINGS


# from questions of one form to an answer of each with its number of tokens, the prompt's included
Answer = Callable[[Sequence[Question]], Sequence[tuple[str, int]]]


def answered(
    problems: Sequence[Problem], formats: Formats, answer: Answer, tokens: float
) -> Mapping[Problem, list[Document]]:
    """A model's answers to problems, until there are enough tokens: each problem once, then again, in conversations
    and as programs in turn.

    Args:
        problems (`Sequence[Problem]`): in random order.
        formats ([`Formats`]): those of the tokenizer.
        answer (`Callable`): writes the answers.
        tokens (`float`): how many to write, with those of the prompts.

    Returns:
        `Mapping[Problem, list[Document]]`: texts by problem, in the order of the problems.
    """
    texts: dict[Problem, list[Document]] = {}
    written = 0
    for questions in batches(problems, formats):
        if written >= tokens:
            break
        for question, (text, number) in zip(questions, answer(questions), strict=True):
            document = text_of(question, text, formats)
            if document is not None:
                texts.setdefault(question.problem, []).append(document)
                written += number
    return {problem: texts[problem] for problem in problems if problem in texts}


def batches(problems: Sequence[Problem], formats: Formats) -> Iterator[list[Question]]:
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


def ask(problem: Problem, asked: int, place: int, formats: Formats) -> Question | None:
    """The question for a problem: every other time its instruction in a conversation, else the head of its program;
    `None` where the tokenizer has no chat template, and the program no head."""
    if formats.question is not None and ((place + asked) % 2 == 0 or not problem.prompt):
        prompt = formats.question(problem.instruction)
        return None if prompt is None else Question(problem, prompt, True, asked)
    return Question(problem, problem.prompt, False, asked) if problem.prompt else None


def text_of(question: Question, answer: str, formats: Formats) -> Document | None:
    """The text of a question with its answer; `None` where that is empty, or in a benchmark."""
    if not answer.strip() or benchmarks().overlaps(answer):
        return None
    text: str | None = question.prompt + answer
    if question.in_chat:
        assert formats.chat is not None
        turns = [("user", question.problem.instruction), ("assistant", answer)]
        text = formats.chat([{"role": role, "content": content} for role, content in turns])
    return None if text is None else Document(text, f"{question.problem.name}:{question.round}")


def answer_candidate(problem: Problem, texts: Sequence[Document]) -> Candidate:
    """A problem that contributes a model's answers to it."""
    return Candidate(program_of(problem), lambda _: texts)
