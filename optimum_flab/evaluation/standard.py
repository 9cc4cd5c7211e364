"""The standard set: the tasks by which models are compared, one protocol for each score.

Tasks are loaded before a model is looked for. So all that the set may hold are loaded, and those that do not suit the
model are left out once its tokenizer is known.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from ..settings.evaluation import STANDARD, EvaluationSettings
from ..vocabulary.infilling import infilling_format
from .catalog import LINES, STANDARD_CHAT, STANDARD_RAW, LoadedTask


FROM_A_FILE = ("codeharmony", "codeharmony_instruct")  # one file serves both


def with_standard_set(settings: EvaluationSettings) -> tuple[EvaluationSettings, list[str]]:
    """Settings that name the tasks of the standard set in place of it, and what is left out for lack of data."""
    if STANDARD not in settings.tasks:
        return settings, []
    place = settings.tasks.index(STANDARD)
    named = [task for task in settings.tasks if task != STANDARD]
    data = dict(settings.data)
    left_out = []
    tasks = [task for task in dict.fromkeys((*STANDARD_CHAT, *STANDARD_RAW)) if task not in named]
    if files := next((data[task] for task in FROM_A_FILE if data.get(task)), None):
        data |= {task: data.get(task) or files for task in FROM_A_FILE}
    else:
        tasks = [task for task in tasks if task not in FROM_A_FILE]
        if not set(FROM_A_FILE) & set(named):
            left_out.append(
                f"{STANDARD}: CodeHarmony is left out, since its problems come from a file; name one in `data` as"
                " codeharmony"
            )
    return settings.model_copy(update={"tasks": [*named[:place], *tasks, *named[place:]], "data": data}), left_out


def tasks_for_tokenizer(
    tasks: Sequence[LoadedTask], settings: EvaluationSettings, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[LoadedTask], list[str]]:
    """The tasks that are named, and those of the standard set that suit a tokenizer; and what is left out."""
    left_out = []
    wanted = {*settings.tasks, *(STANDARD_CHAT if tokenizer.chat_template else STANDARD_RAW)}
    if LINES not in settings.tasks and settings.fim_format is None and infilling_format(tokenizer) is None:
        wanted.remove(LINES)
        left_out.append(
            f"{STANDARD}: {LINES} is left out, since the tokenizer lacks the special tokens of every known format for"
            " gaps; set `fim_format` if the model was trained to fill them"
        )
    return [task for task in tasks if task.name in wanted], left_out
