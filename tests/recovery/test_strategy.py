"""Which answers are learned."""

import json

import pytest

from optimum_flab import FlabError
from optimum_flab.execution import Program, run_programs
from optimum_flab.recovery.checks import check_inputs
from optimum_flab.recovery.instructions import Example
from optimum_flab.recovery.rows import faults
from optimum_flab.recovery.strategy import (
    Completion,
    FilterTally,
    choose,
    fault_of,
    fault_of_program,
    parses,
    program_for,
    refuse_empty,
    to_answer,
    without_overlap,
)
from optimum_flab.running.generation import BatchCache
from optimum_flab.running.processes import Processes
from optimum_flab.settings.recovery import RecoveryConfig
from optimum_flab.texts.overlap import Forbidden
from optimum_flab.utils.errors import ConfigurationError


TEST = "def check(candidate):\n    assert candidate(2) == 4\n"
PROMPT = "import math\n\n\ndef double(x):\n    '''Twice x.'''\n"
TESTED = Example("p#1", (("user", PROMPT),), "    return x + x\n", True, TEST, "double")
ASKED = Example("p#2", (("user", "Write double(x)."),), "def double(x):\n    return x + x\n", False, TEST, "double")
BARE = Example(
    "p#3", (("user", "Write double(x)."),), "def double(x):\n    return x + x\n", False, "assert double(2) == 4"
)
UNTESTED = Example("p#4", (("user", "Write double(x)."),), "def double(x):\n    return x + x\n")
PROSE = Example("p#5", (("user", "What is a list?"),), "A list is a mutable sequence.")


def in_sandbox(programs):
    return [fault_of_program(verdict) for verdict in run_programs(programs, confirm_run_unsafe_code=True)]


def test_the_dense_answer_is_learned_where_it_passes_the_tests_and_else_the_reference():
    right = "    return 2 * x\n"
    fenced = "Here it is:\n```python\ndef double(x):\n    return 2 * x\n```\nDone."
    examples = [TESTED, TESTED, ASKED, ASKED, BARE, BARE]
    answers = [right, "    return x\n", fenced, fenced.replace("2 *", "3 *"), fenced, "no code at all"]
    tally = FilterTally()
    found = choose(examples, {i: Completion(text, True) for i, text in enumerate(answers)}, in_sandbox, tally)
    assert [one.answer for one in found] == [right, TESTED.answer, fenced, ASKED.answer, fenced, BARE.answer]
    assert tally.answers == {"dense, tests passed": 3, "reference": 3}
    assert tally.rejected == {"fails its tests": 3}


def test_a_dense_answer_that_was_cut_off_is_not_learned_even_if_its_code_passes():
    tally = FilterTally()
    cut = Completion("    return 2 * x\n    # then we expl", ended=False)
    (found,) = choose([TESTED], {0: cut}, in_sandbox, tally)
    assert (found, tally.rejected) == (TESTED, {"too long": 1})


def test_answers_that_are_not_wrong_are_counted_apart():
    answers = [
        "    import yaml\n    return yaml.safe_load(str(x + x))\n",
        "    return x\n",
    ]
    tally = FilterTally()
    choose([TESTED] * 2, {i: Completion(text, True) for i, text in enumerate(answers)}, in_sandbox, tally)
    assert tally.rejected == {"imports yaml (see `recovery.allow_packages`)": 1, "fails its tests": 1}


def test_what_a_program_may_import_is_part_of_what_is_kept_of_it(tmp_path):
    code = "import yaml\ndef double(x):\n    return yaml.safe_load(str(x + x))\n"
    cache, ticks = BatchCache(tmp_path), []
    found = [
        faults([Program(code, TEST, "double")], packages, cache, ticks.append, Processes())
        for packages in ((), ("yaml",), (), ("yaml",))
    ]
    assert found == [["imports yaml (see `recovery.allow_packages`)"], [None]] * 2
    assert (cache.made, cache.reused, ticks) == (2, 2, [1] * 4)


def test_packages_are_checked_before_any_work(tmp_path):
    problem = {"prompt": PROMPT, "answer": TESTED.answer, "test": TEST, "entry_point": "double"}
    (tmp_path / "problems.jsonl").write_text(json.dumps(problem) + "\n")
    data = str(tmp_path / "problems.jsonl")
    check_inputs(RecoveryConfig(data=data, allow_packages="numpy"), consent=True)
    for names, message in (("no_such", "no package of that name is installed"), (["numpy", "json"], "part of Python")):
        with pytest.raises(ConfigurationError, match=message):
            check_inputs(RecoveryConfig(data=data, allow_packages=names), consent=True)


def test_references_pass_their_own_tests():
    assert in_sandbox([program_for(one, one.answer) for one in (TESTED, ASKED, BARE)]) == [None] * 3


def test_of_several_blocks_the_one_that_an_evaluation_would_judge_is_run():
    blocks = ["def double(x):\n    return x", "def double(x):\n    return x + x", "print(double(4))"]
    answer = "So:\n".join(f"```python\n{code}\n```\n" for code in blocks)
    assert in_sandbox([program_for(one, answer) for one in (ASKED, BARE)]) == [None] * 2


def test_answers_without_tests_are_checked():
    faults = {
        "": "empty",
        "def double(x):\n    return (x": "does not parse",
        "x = x + 1\n" * 30: "repeats itself",
        "def double(x):\n    return 2 * x\n": None,
        "Sure.\n```python\ndef double(x):\n    return 2 * x\n```": None,
        "Sure.\n```python\ndef double(x:\n```": "does not parse",
    }
    assert {text: fault_of(UNTESTED, Completion(text, True)) for text in faults} == faults
    assert fault_of(UNTESTED, Completion("def double(x):\n    return 2 * x\n", False)) == "too long"
    assert fault_of(PROSE, Completion("It is a sequence that can be changed.", True)) is None


def test_what_parses_is_code():
    assert parses("x = 1") and parses("print(1)") and parses("def f():\n    pass")
    assert not parses("Hello") and not parses("") and not parses("def f(") and not parses("\0")


def test_only_a_share_of_the_problems_without_tests_is_answered_and_more_data_does_not_change_the_choice():
    examples = [Example(f"p#{n}", (("user", f"Task {n}"),), f"answer {n}") for n in range(400)]
    chosen = to_answer([*examples, TESTED], 0.3, seed=0)
    assert 400 in chosen and 80 < len(chosen) < 160
    assert to_answer(examples[:100], 0.3, seed=0) == [index for index in chosen if index < 100]
    assert to_answer(examples, 0.3, seed=1) != chosen[:-1]
    assert to_answer(examples, 0, 0) == [] and len(to_answer(examples, 1, 0)) == 400


def test_duplicates_and_overlaps_are_counted_by_name():
    tally = FilterTally(read=4)
    long = Example("p#9", (("user", " ".join(f"word{n}" for n in range(20))),), "x")
    kept = without_overlap([TESTED, TESTED, long, PROSE], {"HumanEval": Forbidden([long.prompt])}, tally)
    assert kept == [TESTED, PROSE]
    assert tally.dropped == {"duplicates": 1, "overlapping HumanEval": 1}


def test_an_empty_set_shows_every_count():
    tally = FilterTally(read=7)
    tally.drop("duplicates", 3)
    tally.drop("longer than 8 tokens", 4)
    tally.drop("nothing", 0)
    with pytest.raises(FlabError, match=r"of 7 examples 0 stay \(3 duplicates, 4 longer than 8 tokens\)"):
        refuse_empty([], tally)
