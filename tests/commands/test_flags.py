"""Flags derive from the fields of the settings; a settings file is below them."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Annotated, Literal, get_args, get_origin

import pytest
from pydantic import Field

from optimum_flab import FlabPrunerConfig
from optimum_flab.commands import FlabCommand
from optimum_flab.commands.flags import add_flag, flags_of, settings_from, value_type
from optimum_flab.criteria import CHOICES
from optimum_flab.settings.files import Settings
from optimum_flab.settings.pruning import merge_settings
from optimum_flab.settings.section import NO_FLAG, Flag, Section, Sources
from optimum_flab.utils.compat import actions_of
from optimum_flab.utils.errors import ConfigurationError

from ..conftest import flab


VERBS = {info.name: info.subcommand_class for info in FlabCommand.SUBCOMMANDS}
NEEDED = {
    **{"prune": ["-m", "x", "out"], "recover": ["-m", "x", "out", "--teacher", "t"], "export": ["-m", "x", "x.gguf"]},
    **{"eval": ["-m", "x"], "bench": ["-m", "x"], "card": ["-m", "folder"], "push": ["-m", "folder", "me/model"]},
    "inspect": ["-m", "x"],
}


# what else must be set for a value that is not the default
BESIDE = {
    "target_type": {"target_size": "9MB"},
    "data.calibration_tokens": {"data": {"sequence_length": 8}},
    "recovery.micro_batch_size": {"recovery": {"batch_size": 18}},
    **{f"recovery.{name}": {"recovery": {"data": "x"}} for name in ("loss", "distill_on")},
}


def parsed(verb, *arguments):
    parser = ArgumentParser()
    VERBS[verb].parse_args(parser)
    return parser.parse_args([*NEEDED[verb], *map(str, arguments)])


def given(verb, *arguments) -> dict:
    """The settings that flags give."""
    return settings_from(parsed(verb, *arguments), VERBS[verb].FLAGS)


def settings_of(verb, *arguments) -> Settings:
    return VERBS[verb](None, parsed(verb, *arguments), from_defaults_factory=True, parser=ArgumentParser()).settings


class Inner(Section):
    size: int = Field(default=3, ge=1, description="100% of it")
    several: Annotated[Sources, Flag(metavar="FILE", several=True)] = Field(default=[], description="files")


class Toy(Section):
    on: bool = Field(default=True, description="do it")
    off_too: Annotated[bool, Flag("--off")] = Field(default=False, description="do this")
    least_share: float | None = Field(default=None, description="a share (default: that of all)")
    kind: Literal["one", "two"] = Field(default="two", description="a kind")
    texts: Annotated[Sources | None, Flag("--text", "TEXT")] = Field(default=None, description="texts")
    inner: Inner = Field(default_factory=Inner)
    hidden: Annotated[int, NO_FLAG] = 1


def test_a_flag_derives_from_its_field_and_what_stands_beside_it():
    parser = ArgumentParser()
    for flag in flags_of(Toy, "toy"):
        add_flag(parser, flag)
    found = [
        (action.option_strings, action.dest, action.metavar, action.choices, action.help)
        for action in actions_of(parser)[1:]
    ]
    assert found == [
        (["--no-on"], "toy.on", None, None, "do not do it (default: do)"),
        (["--off"], "toy.off_too", None, None, "do this (default: no)"),
        (["--least-share"], "toy.least_share", "SHARE", None, "a share (default: that of all)"),
        (["--kind"], "toy.kind", None, ("one", "two"), "a kind (default: two)"),
        (["--text"], "toy.texts", "TEXT", None, "texts; may be given several times (default: none)"),
        (["--size"], "inner.size", "N", None, "100%% of it (default: 3)"),
        (["--several"], "inner.several", "FILE", None, "files; several may be named (default: none)"),
    ]
    given = parser.parse_args(["--no-on", "--off", "--text", "a", "--text", "b", "--several", "c", "d"])
    assert {name: value for name, value in vars(given).items() if value is not None} == {
        **{"toy.on": False, "toy.off_too": True, "toy.texts": ["a", "b"], "inner.several": ["c", "d"]}
    }


def a_value(flag) -> list:
    """Words that give a flag a value which is not the default."""
    kind = value_type(flag.field.annotation)
    if kind is bool:
        return []
    if get_origin(kind) is Literal:
        return [next(choice for choice in get_args(kind) if choice != flag.field.default)]
    if get_origin(kind) is dict:
        return ["library=0.5" if flag.name == "--mix" else "recode=x=y.jsonl"]
    if flag.field.default == "auto" or flag.name == "--target-size":
        return ["9MB" if flag.name == "--target-size" else "9"]
    words = {"--base-model": "a/b", "--repo-id": "a/b", "--license": "mit"}
    return [{int: 9, float: 0.125}.get(kind, words.get(flag.name, "a-b"))]


@pytest.mark.parametrize("verb", NEEDED)
def test_every_flag_gives_its_own_setting_and_no_other(verb):
    assert VERBS[verb].FLAGS
    for flag in VERBS[verb].FLAGS:
        values = given(verb, flag.name, *a_value(flag))
        section, _, name = flag.setting.rpartition(".")
        assert list(values) == [section or name], flag.name
        inner = values[section] if section else values
        assert list(inner) == [name] and inner[name] != flag.field.default, flag.name
        Settings(**merge_settings(BESIDE.get(flag.setting, {}), values))  # is valid


@pytest.mark.parametrize("verb", VERBS)
def test_every_flag_is_explained_with_its_default(verb):
    parser = ArgumentParser()
    VERBS[verb].parse_args(parser)
    flags = [action for action in actions_of(parser)[1:] if action.option_strings and not action.required]
    silent = [action.dest for action in flags if "default: " not in action.help]
    assert silent == (["model"] if verb == "eval" else [])


def test_every_criterion_is_quoted_in_columns_that_fit_a_terminal():
    below = flab("prune", "--help", "all").out.partition("\nCriteria: ")[2]
    assert below.isascii() and max(map(len, below.splitlines())) <= 80
    text = " ".join(below.split())
    for choices in CHOICES.values():
        assert all(f" {criterion.name}: {criterion.summary}" in text for criterion in choices.values())


def test_flags_that_are_given_several_times_add_up():
    assert given("prune") == {}
    flags = ["--corpus", "a", "--corpus", "b[x,y]", "--keep-token=-", "--counts", "a.npz", "b.npz", "--seed", 1]
    assert given("prune", *flags) == {
        "data": {"corpus": ["a", "b[x,y]"], "counts": ["a.npz", "b.npz"]},
        "vocabulary": {"keep_tokens": ["-"]},
        "seed": 1,
    }
    files = ["--data", "recode=a=b.jsonl", "--data", "mbpp=m.jsonl", "--data", "recode=c"]
    assert settings_of("eval", *files).evaluation.data == {"recode": ["a=b.jsonl", "c"], "mbpp": ["m.jsonl"]}


def test_shares_of_kinds_replace_the_usual_ones_unless_they_only_leave_some_out():
    assert settings_of("prune", "--mix", "own=0.5", "--mix", " library =1").data.mix == {"own": 0.5, "library": 1}
    mix = settings_of("prune", "--mix", "infilling=0", "--mix", "chat=0").data.mix
    assert mix == {"own": 0.3, "answers": 0, "problems": 0.2, "library": 0.15, "chat": 0, "infilling": 0}
    for wrong in ("own", "=0.5", " =x", "own="):
        with pytest.raises(ConfigurationError, match=f"--mix: {wrong!r} is not of the form KEY=VALUE"):
            settings_of("prune", "--mix", wrong)


# --- a settings file below them

FILE = """
target_ratio: 0.2
seed: 4
data: {corpus: [a, b], batch_size: 2, mix: {own: 0.5, infilling: 0.5}}
num_hidden_layers: 3
ffn: {enabled: false}
recovery: {data: problems.jsonl, rank: 8}
evaluation: {tasks: [humaneval, mbpp], limit: 20, data: {mbpp: mbpp.jsonl}}
bench: {batch_size: 4}
card: {base_model: org/dense}
push: {private: true, include: [notes.md]}
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "flab.yaml").write_text(FILE, encoding="utf-8")
    return tmp_path / "flab.yaml"


def test_flags_win_over_the_settings_file(file):
    flags = ["--target-ratio", 0.3, "--no-layers", "--intermediate-size", 64, "--corpus", "c", "--mix", "own=1"]
    settings = settings_of("prune", "-c", file, *flags)
    assert settings.data.mix == {"own": 1}
    assert (settings.target_ratio, settings.seed) == (0.3, 4)
    assert (settings.data.corpus, settings.data.batch_size) == (["c"], 2)
    assert (settings.layers.enabled, settings.num_hidden_layers) == (False, None)
    assert (settings.ffn.enabled, settings.intermediate_size) == (True, 64)


@pytest.mark.parametrize(
    ("verb", "section", "arguments", "fields"),
    [
        (
            *("eval", "evaluation", ["--limit", 3]),
            {"tasks": ["humaneval", "mbpp"], "limit": 3, "data": {"mbpp": ["mbpp.jsonl"]}},
        ),
        ("bench", "bench", ["--repeats", 2], {"batch_size": 4, "repeats": 2}),
        ("card", "card", [], {"base_model": "org/dense"}),
        ("push", "push", ["--include", "x"], {"private": True, "include": ["x"]}),
        ("recover", "recovery", ["--rank", 4], {"data": ["problems.jsonl"], "rank": 4}),
        ("export", "export", [], {}),
    ],
)
def test_each_verb_reads_its_own_section_and_flags_win_field_by_field(file, verb, section, arguments, fields):
    settings = getattr(settings_of(verb, "-c", file, *arguments), section)
    assert settings.model_dump(exclude_defaults=True) == fields


def test_a_saved_configuration_can_be_given_back(tmp_path):
    config = FlabPrunerConfig(target_ratio=0.2, vocabulary={"keep_tokens": ["\x7f", "é"]})
    config.save_pretrained(tmp_path)
    assert FlabPrunerConfig(**settings_of("prune", "--config", tmp_path / "flab_config.json").pruning) == config
