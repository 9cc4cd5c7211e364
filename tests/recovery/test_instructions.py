"""Forms of instruction data."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from optimum_flab import ConfigurationError, FlabError
from optimum_flab.recovery.instructions import read_instructions

from .conftest import alpaca, problems, write_lines


def test_the_completion_form_keeps_prompt_and_answer_as_they_stand(tmp_path):
    (example,) = read_instructions([write_lines(tmp_path / "p.jsonl", problems(1))])
    row = problems(1)[0]
    assert example.continues and example.prompt == row["prompt"] and example.answer == row["canonical_solution"]
    assert example.text == row["prompt"] + row["canonical_solution"]
    assert (example.test, example.entry_point) == (row["test"], row["entry_point"])


def test_the_alpaca_form_joins_instruction_and_input_by_a_line_end(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(alpaca(2)))
    without, with_input = read_instructions([str(tmp_path / "a.json")])
    assert without.prompt == alpaca(2)[0]["instruction"]
    assert with_input.prompt == f"{alpaca(2)[1]['instruction']}\n{alpaca(2)[1]['input']}"
    assert not without.continues and without.test is None


@pytest.mark.parametrize("names", [("messages", "role", "content"), ("conversations", "from", "value")])
def test_the_chat_form_ends_with_the_last_answer(tmp_path, names):
    column, role, text = names
    turns = [("system", "Be brief."), ("user", "a"), ("assistant", " b\n"), ("user", "c"), ("assistant", "  d  ")]
    renamed = {"user": "human", "assistant": "gpt"} if role == "from" else {}
    rows = [
        {column: [{role: renamed.get(who, who), text: what} for who, what in part]}
        for part in (turns, [*turns, ("user", "e")], turns[:2])
    ]
    found = read_instructions([write_lines(tmp_path / "c.jsonl", rows)])
    assert [example.blank for example in found] == [False, False, True]
    assert [example.turns for example in found[:2]] == [tuple(turns[:-1])] * 2
    assert {example.answer for example in found[:2]} == {"  d  "}


def test_columns_are_mapped_by_name(tmp_path):
    rows = [{"frage": "Sum?", "antwort": "def f(): pass", "proben": ["assert f() is None", "assert 1"]}]
    file = write_lines(tmp_path / "m.jsonl", rows)
    (example,) = read_instructions([f"{file}[prompt=frage, answer=antwort, test=proben]"])
    assert example.turns == (("user", "Sum?"),) and example.test == "assert f() is None\nassert 1"


@pytest.mark.parametrize("columns", ["prompt", "prompt=a", "prompt=a,answer=b,answer=c", "prompt=a,answer=b,other=c"])
def test_a_mapping_that_is_none_says_how_to_write_one(tmp_path, columns):
    file = write_lines(tmp_path / "m.jsonl", [{"a": "x", "b": "y"}])
    with pytest.raises(ConfigurationError, match="prompt"):
        read_instructions([f"{file}[{columns}]"])


def test_a_mapped_column_that_is_missing_is_named(tmp_path):
    file = write_lines(tmp_path / "m.jsonl", [{"a": "x", "b": "y"}])
    for mapping in ("prompt=a,answer=nope", "prompt=a,answer=b,test=nope"):
        with pytest.raises(FlabError, match="no column nope, which the brackets.*columns found: a, b"):
            read_instructions([f"{file}[{mapping}]"])


def test_parquet_and_folders_are_read(tmp_path):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(alpaca(3)), tmp_path / "b.parquet")
    write_lines(tmp_path / "a.jsonl", problems(2))
    (tmp_path / "readme.txt").write_text("not data")
    found = read_instructions([str(tmp_path)])
    assert [example.continues for example in found] == [True, True, False, False, False]


def test_blank_rows_are_told_apart_and_their_neighbours_keep_their_places(tmp_path):
    rows = [{"prompt": "a", "response": " "}, {"prompt": "", "response": "x"}, {"prompt": "b", "response": "y"}]
    found = read_instructions([write_lines(tmp_path / "r.jsonl", rows)])
    assert [example.blank for example in found] == [True, True, False]
    assert found[2].place.endswith("r.jsonl#3")


@pytest.mark.parametrize("row", [{"messages": "hello"}, {"messages": [{"role": "user"}]}, {"messages": [1]}])
def test_a_chat_that_is_none_is_refused(tmp_path, row):
    with pytest.raises(FlabError, match="not a chat"):
        read_instructions([write_lines(tmp_path / "c.jsonl", [row])])


@pytest.mark.parametrize("name, text", [("x.txt", "hello"), ("x.jsonl", "[1]\n"), ("x.json", "{}")])
def test_files_that_hold_no_rows_are_refused(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(FlabError):
        read_instructions([str(tmp_path / name)])
