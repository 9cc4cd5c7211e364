"""Passes on HumanEval and on its lines, and the time of an editor's completion, for GGUF files in llama.cpp.

    python benchmarks/gguf_passes.py dense-q4_k_m.gguf pruned-q4_k_m.gguf --tasks humaneval,infilling

The prompts, the stop strings and the sandbox are those of `optimum-cli flab eval`; completions are greedy. A
completion's time is the median of `--repeats`: 32 tokens after a prompt of 2,048 tokens of the standard library's
source, none of which is cached. The others are compared with the first file, by a paired bootstrap over the problems.
Passes are reused from `--output` if they are for a file with the same content and were obtained in the same way. This
executes what a model wrote: run it where nothing can be lost.

llama.cpp is that of the wheel llama-cpp-py-sync (`pip install llama-cpp-py-sync`).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from common import humaneval_problems, positive, print_result, progress

from optimum_flab.evaluation.catalog import TASKS_FOLDER
from optimum_flab.evaluation.comparison import MEAN, compare
from optimum_flab.evaluation.tasks.code import completion_program
from optimum_flab.evaluation.tasks.infilling import gaps, single_line
from optimum_flab.execution import Program, run_programs
from optimum_flab.records.results import ScoreRow
from optimum_flab.utils.compat import read_task_file
from optimum_flab.utils.hashing import file_sha256
from optimum_flab.vocabulary.infilling import EXAMPLE, InfillingFormat


TASKS = {"humaneval": "humaneval", "infilling": "humaneval_infilling"}  # and what `flab eval` calls them
GAP_TOKENS = 64
PARALLEL = 16  # completions at a time
BATCH = 512  # tokens of a prompt at a time
LENGTH = 1536  # most tokens of a program and its prompt
LONGEST = 4096  # and of a line, or of what is timed


class Task(NamedTuple):
    """What is asked, and what becomes of the answer.

    Args:
        asked (`dict`): the settings that decide what a file answers.
        parallel (`bool`): whether several are written at a time; lines of one problem share what is read before them
            when they come one after the other, which saves more.
    """

    problems: Sequence[Mapping[str, Any]]
    ask: Callable[[Mapping[str, Any]], str]
    program: Callable[[Mapping[str, Any], str], Program]
    stops: list[str]
    tokens: int
    cluster: str
    asked: Mapping[str, Any]
    parallel: bool


def task_names(text: str) -> list[str]:
    """The names of an argument."""
    names = [name for name in text.split(",") if name]
    if unknown := [name for name in names if name not in TASKS]:
        raise argparse.ArgumentTypeError(f"no task {unknown[0]!r}; choose of {', '.join(TASKS)}")
    return names


def stops_of(name: str) -> list[str]:
    """The stop strings of a task of `flab eval`."""
    return read_task_file(TASKS_FOLDER / f"{TASKS[name]}.yaml", with_functions=False)["generation_kwargs"]["until"]


def tasks_of(names: Sequence[str], limit: int | None, template: str, tokens: int) -> dict[str, Task]:
    problems = humaneval_problems(limit)
    ask = InfillingFormat(template).ask

    def task(name: str) -> Task:
        stops = stops_of(name)
        if name == "humaneval":
            asked = {"stops": stops, "tokens": tokens, "parallel": True}
            return Task(problems, lambda doc: doc["prompt"], completion_program, stops, tokens, "task_id", asked, True)
        found = [gap for problem in problems for gap in gaps(problem)]
        asked = {"stops": stops, "tokens": GAP_TOKENS, "fim_format": template}
        return Task(
            found,
            lambda doc: ask(doc["prefix"], doc["suffix"]),
            single_line,
            stops,
            GAP_TOKENS,
            "problem",
            asked,
            False,
        )

    return {name: task(name) for name in names}


def key_of(content: str, name: str, task: Task) -> str:
    """What passes are kept under: a file by its content, and all that it was asked."""
    return json.dumps({"sha256": content, "task": name, "problems": len(task.problems), **task.asked}, sort_keys=True)


class Writing:
    """A completion that is being written.

    Args:
        number (`int`): of its prompt.
        following (`int`): the token that the model has not read yet.
    """

    def __init__(self, number: int, following: int):
        self.number, self.following = number, following
        self.written, self.text = 0, b""  # tokens, and what they spell


class Writer:
    """A GGUF file that writes what is most likely, several completions at a time, so that each weight is read once for
    all of them.

    Args:
        path (`str`): the file.
        threads (`int`, *optional*): of llama.cpp. Defaults to half of the cores, and all of them for prompts.
        parallel (`int`): completions at a time.
        length (`int`): most tokens of a prompt and its completion.
    """

    def __init__(self, path: str, threads: int | None, parallel: int = PARALLEL, length: int = LENGTH):
        from llama_cpp_py_sync._cffi_bindings import get_ffi, get_lib

        self._ffi, self._library = get_ffi(), get_lib()
        self._model = self._context = self._ffi.NULL
        self._length = length
        self._known: list[list[int]] = [[] for _ in range(parallel)]  # what has been read of each sequence
        self._silence()
        settings = self._library.llama_model_default_params()
        settings.n_gpu_layers = 0
        self._model = self._made(path, self._library.llama_model_load_from_file(os.fsencode(path), settings))
        self._vocabulary = self._library.llama_model_get_vocab(self._model)
        self._size = self._library.llama_vocab_n_tokens(self._vocabulary)
        settings = self._library.llama_context_default_params()
        settings.n_ctx, settings.n_seq_max, settings.n_batch = parallel * length, parallel, BATCH
        settings.kv_unified = False
        cores = os.cpu_count() or 1
        settings.n_threads, settings.n_threads_batch = threads or max(1, cores // 2), threads or cores
        self._context = self._made(path, self._library.llama_init_from_model(self._model, settings))
        self._memory = self._library.llama_get_memory(self._context)
        self._batch = self._library.llama_batch_init(BATCH, 0, 1)

    def _silence(self) -> None:
        """Of what llama.cpp says while the file is open, only errors are passed on."""
        ffi, library = self._ffi, self._library
        self._said_before = ffi.new("ggml_log_callback *"), ffi.new("void **")
        library.llama_log_get(*self._said_before)

        def say(level: int, text: Any, _: Any) -> None:
            if level == library.GGML_LOG_LEVEL_ERROR:
                sys.stderr.write(ffi.string(text).decode(errors="replace"))

        self._say = ffi.callback("ggml_log_callback", say)  # kept: llama.cpp calls it until it is told otherwise
        library.llama_log_set(self._say, ffi.NULL)

    def _made(self, path: str, made: Any) -> Any:
        if made == self._ffi.NULL:
            self.close()
            raise SystemExit(f"{path}: llama.cpp cannot read this file")
        return made

    def tokenize(self, text: bytes, special: bool = False) -> list[int]:
        """The tokens of a text, and before it what the file asks for."""
        size = len(text) + 2
        while True:
            ids = self._ffi.new("llama_token[]", size)
            count = self._library.llama_tokenize(self._vocabulary, text, len(text), ids, size, True, special)
            if count >= 0:
                return list(ids[0:count])
            size = -count

    def completions(
        self,
        prompts: Sequence[str],
        stops: Sequence[str],
        tokens: int,
        tick: Callable[[int], None] = lambda done: None,
    ) -> list[str]:
        """What the file writes after each prompt, up to the first stop string, the end of the text or `tokens`."""
        waiting = list(enumerate(prompts))[::-1]
        slots: dict[int, Writing] = {}
        found: dict[int, str] = {}
        while waiting or slots:
            for slot in range(len(self._known)):
                if slot not in slots and waiting:
                    number, prompt = waiting.pop()
                    slots[slot] = Writing(number, self._begin(slot, self._prompt(number, prompt, tokens)))
            for slot, one in list(slots.items()):
                if (text := self._ended(one, stops, tokens)) is not None:
                    found[one.number] = text
                    del slots[slot]
                    tick(len(found))
            if not slots:
                continue
            self._decode([(slot, one.following, True) for slot, one in slots.items()])
            for place, one in enumerate(slots.values()):
                one.following = self._best(place)
        return [found[number] for number in range(len(prompts))]

    def generate(self, ids: Sequence[int]) -> Iterator[int]:
        """The most likely tokens after others, without end."""
        following = self._begin(0, ids)
        while True:
            yield following
            self._decode([(0, following, True)])
            following = self._best(0)

    def reset(self) -> None:
        """Forgets what has been read."""
        self._library.llama_memory_clear(self._memory, True)
        self._known = [[] for _ in self._known]

    def _prompt(self, number: int, prompt: str, tokens: int) -> list[int]:
        ids = self.tokenize(prompt.encode(), special=True)
        if len(ids) + tokens > self._length:
            raise SystemExit(f"prompt {number} has {len(ids)} tokens, too many for {self._length} with its completion")
        return ids

    def _begin(self, slot: int, ids: Sequence[int]) -> int:
        """Reads a prompt in place of the last text of a sequence, from where the two part; returns what follows."""
        known = self._known[slot]
        parting = next((at for at, (old, new) in enumerate(zip(known, ids, strict=False)) if old != new), len(known))
        shared = min(parting, len(ids) - 1)  # the last token is read again, for what it predicts
        if not self._library.llama_memory_seq_rm(self._memory, slot, shared, -1):  # a state that cannot go back
            self._library.llama_memory_seq_rm(self._memory, slot, -1, -1)
            shared = 0
        del known[shared:]
        for start in range(shared, len(ids), BATCH):
            part = ids[start : start + BATCH]
            last = start + len(part) == len(ids)
            self._decode([(slot, token, last and at == len(part) - 1) for at, token in enumerate(part)])
        return self._best(len(part) - 1)

    def _ended(self, one: Writing, stops: Sequence[str], tokens: int) -> str | None:
        """The text of a completion that has come to its end; else takes up the token that follows."""
        ended = self._library.llama_vocab_is_eog(self._vocabulary, one.following)
        if not ended:
            one.written += 1
            one.text += self._piece(one.following)
        text = one.text.decode(errors="ignore")
        places = [place for stop in stops if (place := text.find(stop)) >= 0]
        if places:
            return text[: min(places)]
        return text if ended or one.written == tokens else None

    def _piece(self, token: int) -> bytes:
        """The text of a token, nothing for a control token."""
        size = 32
        while True:
            text = self._ffi.new("char[]", size)
            count = self._library.llama_token_to_piece(self._vocabulary, token, text, size, 0, False)
            if count >= 0:
                return self._ffi.buffer(text, count)[:]
            size = -count

    def _decode(self, entries: Sequence[tuple[int, int, bool]]) -> None:
        """Reads the next tokens of sequences; of those that are marked, what follows is asked for."""
        batch = self._batch
        batch.n_tokens = len(entries)
        for place, (slot, token, asked) in enumerate(entries):
            batch.token[place], batch.pos[place], batch.logits[place] = token, len(self._known[slot]), asked
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, slot
            self._known[slot].append(token)
        if failed := self._library.llama_decode(self._context, batch):
            raise RuntimeError(f"llama_decode gave {failed}")

    def _best(self, place: int) -> int:
        """The most likely token after an entry of the last batch."""
        found = self._library.llama_get_logits_ith(self._context, place)
        values = self._ffi.buffer(found, self._size * self._ffi.sizeof("float"))
        return int(np.frombuffer(values, np.float32).argmax())

    def close(self) -> None:
        """Gives its memory back."""
        if self._context != self._ffi.NULL:
            self._library.llama_batch_free(self._batch)
            self._library.llama_free(self._context)
        if self._model != self._ffi.NULL:
            self._library.llama_model_free(self._model)
        self._model = self._context = self._ffi.NULL
        callback, data = self._said_before
        self._library.llama_log_set(callback[0], data[0])

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def passes(path: str, task: Task, name: str, threads: int | None) -> list[bool]:
    """Whether each problem is passed by what the model in a file writes."""
    asked, total = [task.ask(problem) for problem in task.problems], len(task.problems)
    parallel, length = (PARALLEL, LENGTH) if task.parallel else (1, LONGEST)
    with Writer(path, threads, parallel, length) as writer:
        found = writer.completions(asked, task.stops, task.tokens, lambda done: progress(done, total, name))
    programs = [task.program(problem, text) for problem, text in zip(task.problems, found, strict=True)]
    return [verdict.passed for verdict in run_programs(programs, confirm_run_unsafe_code=True)]


def score(name: str, task: Task, passed: Sequence[bool], dense: Sequence[bool]) -> dict[str, Any]:
    """How many problems pass, and which part of the dense model's, with 95% intervals by bootstrap over the problems,
    paired where both models count."""
    clusters = [problem[task.cluster] for problem in task.problems]
    found = compare(
        ScoreRow(task=name, metric="pass@1", higher_is_better=True, problems=len(passed)),
        MEAN,
        MEAN.rows(passed),
        MEAN.rows(dense),
        clusters=clusters,
    )
    return {
        "passes": sum(passed),
        "of": len(passed),
        "passes_95": found.pruned.interval_95 and [end * len(passed) for end in found.pruned.interval_95],
        "retention": found.retention.value,
        "retention_95": found.retention.interval_95,
    }


def completion_milliseconds(writer: Writer, repeats: int, prompt: int = 2048, tokens: int = 32) -> dict[str, float]:
    """The time to the first token of a completion, and to its last."""
    source = Path(argparse.__file__).read_text(encoding="utf-8")
    ids = writer.tokenize(source.encode())[:prompt]
    times = []
    for _ in range(repeats):
        writer.reset()
        start, at = time.perf_counter(), []
        for number, _token in enumerate(writer.generate(ids), 1):
            at.append(1000 * (time.perf_counter() - start))
            if number == tokens:
                break
        times.append((at[0], at[-1]))
    return {
        "first_token": statistics.median(first for first, _ in times),
        "completion": statistics.median(last for _, last in times),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="+", help="GGUF files; the first is what the others are compared with")
    parser.add_argument(
        "--tasks", type=task_names, default=",".join(TASKS), help="of these (default: %(default)s); empty: none"
    )
    parser.add_argument("--limit", type=positive, help="only the first N problems (default: all)")
    parser.add_argument("--fim-format", default=EXAMPLE, help="how a gap is asked for (default: %(default)s)")
    parser.add_argument("--max-new-tokens", type=int, default=256, help="of a program (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="completions that are timed (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="of llama.cpp (default: half of the cores)")
    parser.add_argument("--output", help="JSON file with what passed, which is taken up where it is there")
    args = parser.parse_args()

    tasks = tasks_of(args.tasks, args.limit, args.fim_format, args.max_new_tokens)
    kept = Path(args.output) if args.output else None
    passed = json.loads(kept.read_text(encoding="utf-8")) if kept is not None and kept.is_file() else {}
    files: dict[str, dict[str, Any]] = {}
    reference: dict[str, list[bool]] = {}  # of the first file
    for path in args.files:
        content = file_sha256(Path(path))
        files[path] = {"sha256": content, "megabytes": Path(path).stat().st_size / 1e6}
        if args.repeats:
            with Writer(path, args.threads, 1, LONGEST) as writer:
                files[path]["milliseconds"] = completion_milliseconds(writer, args.repeats)
        for label, task in tasks.items():
            key = key_of(content, label, task)
            if key not in passed:
                passed[key] = passes(path, task, f"{label} ({path})", args.threads)
                if kept is not None:
                    kept.write_text(json.dumps(passed), encoding="utf-8")
            files[path][label] = score(label, task, passed[key], reference.setdefault(label, passed[key]))
    settings = {name: getattr(args, name) for name in ("max_new_tokens", "threads", "limit")}
    print_result("gguf_passes", files=files, settings=settings)


if __name__ == "__main__":
    main()
