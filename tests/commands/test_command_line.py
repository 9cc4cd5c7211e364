from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from functools import lru_cache
from typing import Literal, get_args, get_origin

import pytest

from optimum_flab.commands import FlabCommand, bench, card, eval, export, prune, push, recover
from optimum_flab.commands.apply import ApplyCommand
from optimum_flab.commands.base import command_line, faults_with_flags, terminal, told_to_go_on, with_flags
from optimum_flab.commands.flags import field_of, pruning_from, section_from
from optimum_flab.commands.prune import FLAGS, PruneCommand
from optimum_flab.commands.recover import RecoverCommand
from optimum_flab.criteria import CHOICES
from optimum_flab.errors import ConfigurationError, FlabError
from optimum_flab.settings.efficiency import BenchSettings
from optimum_flab.settings.evaluation import EvaluationSettings
from optimum_flab.settings.files import ALL_SECTIONS
from optimum_flab.settings.hub import PushSettings
from optimum_flab.settings.pruning import KINDS, PrunerSettings, check_settings


COMMAND = [sys.executable, "-m", "optimum.commands.optimum_cli"]
HEAVY = ["torch", "transformers", "tokenizers", "datasets", "huggingface_hub"]


def cli(*arguments, cwd=None) -> subprocess.CompletedProcess:
    return subprocess.run([*COMMAND, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=120)


@lru_cache
def help_of(*verb: str) -> str:
    result = cli(*verb, "--help")
    assert result.returncode == 0, result.stderr
    return " ".join(result.stdout.split())


def parse(*arguments) -> dict:
    parser = ArgumentParser()
    PruneCommand.parse_args(parser)
    return pruning_from(parser.parse_args(["-m", "model", "out", *map(str, arguments)]), FLAGS)


@pytest.mark.parametrize(
    "arguments", [[], ["flab"], ["flab", "prune"], ["flab", "apply"], ["flab", "inspect"], ["flab", "push"]]
)
def test_help_imports_nothing_heavy(arguments):
    code = (
        "import sys\n"
        "from optimum.commands.optimum_cli import main\n"
        f"sys.argv = ['optimum-cli', *{arguments!r}, '--help']\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "assert 'optimum_flab.commands.prune' in sys.modules\n"
        f"print('heavy:', [name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "heavy: []"


def test_importing_the_package_imports_nothing_heavy_and_names_are_found_on_use():
    code = (
        "import sys, optimum_flab\n"
        f"assert not [name for name in {[*HEAVY, 'pydantic', 'optimum']!r} if name in sys.modules]\n"
        "assert set(optimum_flab.__all__) <= set(dir(optimum_flab))\n"
        "assert not hasattr(optimum_flab, 'Nothing')\n"
        "assert issubclass(optimum_flab.ConfigurationError, optimum_flab.FlabError)\n"
        "assert optimum_flab.FlabPrunerConfig.__name__ == 'FlabPrunerConfig'\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr


def test_the_root_help_lists_the_command_and_the_command_its_verbs():
    assert "Prune the vocabulary, layers and FFNs" in help_of()
    for verb in ("prune", "apply", "count", "inspect", "push"):
        assert verb in help_of("flab")
        text = help_of("flab", verb)
        assert text.index("Required arguments:") < text.index("Optional arguments:")


def test_every_flag_is_explained_with_its_default():
    text = help_of("flab", "prune")
    for flag in FLAGS:
        assert f"{', '.join(flag.names)} " in text
    for default in ("(default: 32768)", "(default: 512)", "(default: 20000)", "(default: obs)", "(default: auto)"):
        assert default in text
    assert text.count("default: ") >= len(FLAGS)


def test_every_criterion_is_quoted_in_columns_that_fit_a_terminal():
    result = cli("flab", "prune", "--help")
    below = result.stdout.partition("\nCriteria: ")[2]
    assert below.isascii() and max(map(len, below.splitlines())) <= 80
    text = " ".join(below.split())
    for section, choices in CHOICES.items():
        default = getattr(PrunerSettings(), section).criterion
        for criterion in choices.values():
            shown = f"{criterion.name} (default) " if criterion.name == default else f"{criterion.name} "
            assert (
                f" {shown}{criterion.summary} score: {criterion.formula} source: {criterion.source}" in f" {text}"
            ), criterion.name
            for name, meaning in criterion.parameters.items():
                assert f"{name} ({meaning})" in text


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.flag)
def test_every_flag_gives_its_own_setting_and_no_other(flag):
    values = {"--target-ratio": 0.25, "--layer-criterion": "block-influence", "--ffn-criterion": "first"}
    values |= {"--expert-criterion": "frequency", "--rounds": 3, "--rounds-share": 0.5, "--mix": "library=0.5"}
    values |= {"--preset": "web", "--coverage": 0.999}
    *section, name = flag.setting.split(".")
    wanted = PrunerSettings().model_dump()
    into = wanted[section[0]] if section else wanted
    switch = isinstance(into[name], bool)
    if switch:
        value = not flag.flag.startswith(("--no-", "--keep-vocabulary"))
    else:
        value = values.get(flag.flag, 1024 if flag.metavar == "N" else "a, b[c]")
    asked = parse(flag.flag) if switch else parse(flag.flag, value)

    if flag.flag == "--num-experts":
        into["enabled"] = True
    into[name] = [value] if isinstance(into[name], list) else value
    if flag.flag == "--rounds":  # which need a target and a training
        others = {"target_ratio": 0.25, "recovery": {"text": ["python-stdlib"]}}
        asked, wanted = {**asked, **others}, check_settings({**wanted, **others}).model_dump()
    if flag.flag == "--mix":
        into[name] = {"library": 0.5}
    assert check_settings(asked).model_dump() == wanted


# --- flags of all verbs


VERBS = {
    "prune": prune,
    "recover": recover,
    "eval": eval,
    "bench": bench,
    "card": card,
    "export": export,
    "push": push,
}
COMMANDS = {info.name: info.subcommand_class for info in FlabCommand.SUBCOMMANDS}
ALL_FLAGS = [(verb, flag) for verb, module in VERBS.items() for flag in module.FLAGS]
VALUES = {"dtype": "bfloat16", "data": "recode=x=y.jsonl", "criterion": "first"}


def parsed(verb, *arguments):
    parser = ArgumentParser()
    COMMANDS[verb].parse_args(parser)
    needed = {
        **{"push": ["folder", "me/model"], "card": ["folder"], "export": ["folder", "x.gguf"]},
        "recover": ["-m", "x", "out", "--teacher", "t"],
    }
    return parser.parse_args([*needed.get(verb, ["-m", "x"]), *(["out"] * (verb == "prune")), *map(str, arguments)])


def test_every_setting_of_every_section_has_a_flag():
    sections = {"": PrunerSettings, **ALL_SECTIONS}
    fields = {
        f"{section}.{name}".removeprefix(".")
        for section, kind in sections.items()
        for name in kind.model_fields
        if section or name not in ALL_SECTIONS
    }
    assert fields - {flag.setting for _, flag in ALL_FLAGS} == set()
    assert {flag.setting for _, flag in ALL_FLAGS} - fields == set()


@pytest.mark.parametrize(("verb", "flag"), [pair for pair in ALL_FLAGS if pair[0] != "prune"], ids=str)
def test_a_flag_of_a_verb_gives_its_own_setting_and_no_other(verb, flag):
    section, name = flag.setting.split(".")
    field = field_of(flag)
    if field.annotation is bool:
        given, wanted = [flag.flag], not field.default
    else:
        kind = [one for one in get_args(field.annotation) if one is not type(None)] or [field.annotation]
        if get_origin(field.annotation) is Literal:
            wanted = kind[-1]
        elif field.annotation is float or kind[0] is float:
            wanted = 0.25
        elif field.annotation is int or kind[0] is int:
            wanted = 64
        else:
            wanted = VALUES.get(name, "a-b")
        given = [flag.flag, wanted]
        wanted = {"recode": ["x=y.jsonl"]} if name == "data" and verb == "eval" else wanted
    if verb == "eval" and name == "data":
        given += ["--tasks", "recode"]
    settings = ALL_SECTIONS[section](**section_from(parsed(verb, *given), VERBS[verb].FLAGS, section))
    assert settings.model_fields_set - {"tasks"} == {name} - {"tasks"}
    assert getattr(settings, name) in (wanted, [wanted])


def test_without_flags_nothing_is_asked_for():
    assert parse() == {}


def test_repeatable_flags_add_up():
    asked = parse("--corpus", "a", "--corpus", "b[x,y]", "--keep-token", "<x>", "--keep-token=-")
    assert asked == {"data": {"corpus": ["a", "b[x,y]"]}, "vocabulary": {"keep_tokens": ["<x>", "-"]}}


def test_several_files_of_counts_stand_behind_one_flag_or_several():
    asked = parse("--counts", "a.npz", "b.npz", "--seed", 1, "--counts", "c.npz")
    assert asked == {"data": {"counts": ["a.npz", "b.npz", "c.npz"]}, "seed": 1}
    assert "several may be named" in help_of("flab", "prune")


def test_the_vocabulary_is_kept_by_either_name_of_the_flag():
    kept = {"vocabulary": {"enabled": False}}
    assert parse("--keep-vocabulary") == parse("--no-vocabulary") == kept


def test_a_kind_is_left_out_by_its_name_alone():
    asked = check_settings(parse("--mix", "infilling=0"))
    assert asked.data.mix == {**KINDS, "infilling": 0}
    assert check_settings(parse("--mix", "infilling=0", "--mix", "chat=0")).data.mix == {
        **KINDS,
        "infilling": 0,
        "chat": 0,
    }
    assert "infilling=0" in help_of("flab", "prune")


def test_shares_of_kinds_replace_the_usual_ones():
    asked = check_settings(parse("--mix", "own=0.5", "--mix", " library =1", "--mix", "own=0"))
    assert asked.data.mix == {"own": 0, "library": 1}
    for given, message in (
        (["own"], "expected KIND=SHARE"),
        (["own=much"], "expected KIND=SHARE"),
        (["code=1"], "has no kind of text 'code'"),
        (["libary=1"], "did you mean 'library'"),
        (["own=-1"], "negative share of 'own'"),
        ([f"{kind}=0" for kind in KINDS], "leaves no text"),
        (["own=nan"], "finite"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            check_settings(parse(*(word for share in given for word in ("--mix", share))))


def test_flags_win_over_the_configuration_file(tmp_path):
    path = tmp_path / "flab.yaml"
    path.write_text(
        "target_ratio: 0.2\nseed: 4\n"
        "data: {corpus: [a, b], batch_size: 2, mix: {own: 0.5, infilling: 0.5}}\n"
        "layers: {num_hidden_layers: 3}\n"
        "ffn: {enabled: false}\n",
        encoding="utf-8",
    )
    sizes = ["--target-ratio", 0.3, "--no-layers", "--intermediate-size", 64]
    settings = check_settings(parse("-c", path, *sizes, "--corpus", "c", "--mix", "infilling=0"))
    assert {kind for kind, share in settings.data.mix.items() if share} == {"own"}
    assert (settings.target_ratio, settings.seed) == (0.3, 4)
    assert (settings.data.corpus, settings.data.batch_size) == (["c"], 2)
    assert (settings.layers.enabled, settings.layers.num_hidden_layers) == (False, None)
    assert (settings.ffn.enabled, settings.ffn.intermediate_size) == (True, 64)


def test_a_saved_configuration_can_be_given_back(tmp_path):
    from optimum_flab import FlabPrunerConfig

    config = FlabPrunerConfig(target_ratio=0.2, vocabulary={"keep_tokens": ["\x7f", "é"]})
    config.save_pretrained(tmp_path)
    assert FlabPrunerConfig(**parse("--config", tmp_path / "flab_config.json")) == config


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-m", "x"], "the following arguments are required: output"),
        (["out"], "the following arguments are required: -m/--model"),
        (["-m", "x", "out", "--target-ratio", "many"], "argument --target-ratio: invalid float value: 'many'"),
        (["-m", "x", "out", "--target-ratio", "1.5"], "target_ratio: 1.5 is not between 0 and 1"),
        (["-m", "x", "out", "--dtype", "int8"], "argument --dtype: invalid choice: 'int8'"),
        (["-m", "x", "out", "--ffn-criterion", "best"], "argument --ffn-criterion: invalid choice: 'best'"),
        (
            ["-m", "x", "out", "--vocab-size", "9", "--keep-vocabulary"],
            "vocabulary.size: 9 is pinned although vocabulary.enabled is false",
        ),
        (["-m", "x", "out", "-c", "flab.yaml"], "ffn.widht: unknown field"),
        (["-m", "x", "out", "-c", "no.yaml"], "configuration file 'no.yaml' cannot be read"),
        (
            ["-m", "x", "out", "--cache-dir", "~nosuchuser/x"],
            "'~nosuchuser/x' begins with a user that is not known here",
        ),
        (
            ["-m", "x", "out", "--plan", "p", "-c", "flab.yaml", "--seed", "1", "--corpus", "a", "--no-ffn"],
            "--plan p: a plan already says what is kept, so --config, --seed, --corpus, --no-ffn would have no effect",
        ),
        (
            ["-m", "x", "out", "--plan", "p", "--seed", "0", "--corpus", "a", "--no-ffn", "--batch-size", "1"],
            "--plan p: a plan already says what is kept, so --seed, --corpus, --batch-size, --no-ffn would",
        ),
    ],
)
def test_bad_usage_of_prune_exits_with_2_and_writes_nothing(tmp_path, arguments, message):
    (tmp_path / "flab.yaml").write_text("ffn: {widht: 3}", encoding="utf-8")
    result = cli("flab", "prune", *arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["flab.yaml"]


def test_all_faults_of_file_and_flags_are_shown_at_once(tmp_path):
    (tmp_path / "flab.json").write_text(json.dumps({"sed": 1, "ffn": {"multiple_of": 0}}), encoding="utf-8")
    result = cli("flab", "prune", "-m", "x", "out", "-c", "flab.json", "--target-ratio", "-1", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith("optimum-cli flab: error: 3 faults in the configuration:\n")
    for fault in ("sed: unknown field", "ffn.multiple_of: 0 should be", "target_ratio: -1.0 is not between"):
        assert fault in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect"], "the following arguments are required: -m/--model"),
        (["inspect", "-m", "x", "--target-ratio", "1"], "target_ratio: 1.0 is not between 0 and 1"),
        (["count", "a.py", "-m", "x"], "the following arguments are required: -o/--output"),
        (["count", "a.py", "-m", "x", "-o", "a.txt"], r"output: 'a.txt' does not end in .npz; name a file that does"),
        (["push", "folder"], "the following arguments are required: repo_id"),
        (["push", "no-such-folder", "me/model"], "folder 'no-such-folder' does not exist"),
        (["push", ".", "not a name"], "repository 'not a name' is not a name that the Hub accepts"),
    ],
)
def test_bad_usage_of_the_other_verbs_exits_with_2(tmp_path, arguments, message):
    result = cli("flab", *arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a named pipe")
def test_an_interrupt_exits_with_130_and_one_line(tmp_path, interruptible):
    pipe = tmp_path / "flab.yaml"
    os.mkfifo(pipe)
    process = subprocess.Popen(
        [*COMMAND, "flab", "prune", "-m", "x", str(tmp_path / "out"), "-c", str(pipe)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with pipe.open("w"):  # opens once the command has begun to read
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout, stderr) == (130, "", "optimum-cli flab: interrupted\n")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("error", "code"), [(FlabError("no luck"), 1), (ConfigurationError("no luck"), 2)])
def test_an_error_of_the_user_ends_with_its_message_and_exit_code(capsys, error, code):
    with pytest.raises(SystemExit) as end, terminal():
        raise error
    assert end.value.code == code
    assert capsys.readouterr().err == "optimum-cli flab: error: no luck\n"


@pytest.mark.parametrize(("prompt", "message"), [("", "the text is empty"), ("a\udcff", "not UTF-8 at character 2")])
def test_a_prompt_that_nothing_can_continue_is_refused_at_once(capsys, tmp_path, prompt, message):
    for verb in (PruneCommand, ApplyCommand):
        parser = ArgumentParser()
        verb.parse_args(parser)
        with pytest.raises(SystemExit) as end:
            parser.parse_args(["-m", "x", str(tmp_path / "out"), "--plan", "y", "--prompt", prompt])
        assert end.value.code == 2 and message in capsys.readouterr().err


def test_an_error_of_ours_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError), terminal():
        raise ZeroDivisionError


# --- the command that a run was started with


def test_the_command_of_a_run_is_told_without_paths_of_the_machine(tmp_path, monkeypatch):
    (tmp_path / "corp" / "secrets").mkdir(parents=True)
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "rows.jsonl").write_text("{}", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    parser = ArgumentParser()
    PruneCommand.parse_args(parser)
    told = command_line(
        "prune",
        parser,
        parser.parse_args(
            [
                *("--model=corp/secrets", "private/runs/out", "--corpus", "corp/secrets", "--corpus=org/data:test[a]"),
                *("--calibration", f"{tmp_path}/private/rows.jsonl[a,b]", "--keep-token", "</s>", "--no-ffn"),
                *("--target-ratio", "0.3", "-c", "private/flab.yaml", "--overwrite", "--prompt", "my secret"),
                *("--dtype", "auto", "--seed", "7", "--memory-budget", "6GB"),
                *("--counts", "private/a.npz", f"{tmp_path}/private/b.npz"),
            ]
        ),
    )
    assert told == (
        "optimum-cli flab prune -m secrets out -c flab.yaml --target-ratio 0.3 --seed 7 --corpus secrets"
        " --corpus 'org/data:test[a]' --counts a.npz --counts b.npz --calibration 'rows.jsonl[a,b]'"
        " --keep-token '</s>' --no-ffn"
    )


def test_a_model_of_the_hub_keeps_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parser = ArgumentParser()
    RecoverCommand.parse_args(parser)
    arguments = ["-m", "runs/out", "runs/better", "--teacher", "org/model", "--data", "org/data", "--keep-adapter"]
    told = command_line("recover", parser, parser.parse_args(arguments))
    assert told == "optimum-cli flab recover -m out better --teacher org/model --data org/data --keep-adapter"


def test_what_is_told_can_be_parsed_again():
    parser = ArgumentParser()
    PruneCommand.parse_args(parser)
    given = parser.parse_args(["-m", "model", "out", "--keep-token", "a 'b' \"c\"\n", "--no-layers", "--keep-used"])
    words = shlex.split(command_line("prune", parser, given))
    assert vars(parser.parse_args(words[3:])) == vars(given)


# --- one settings file for several verbs


FILE = """
target_ratio: 0.2
data: {corpus: [a]}
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


def test_each_verb_reads_its_own_section_and_flags_win_field_by_field(file):
    def read(verb, section, *arguments):
        kind = ALL_SECTIONS[section]
        return kind(**section_from(parsed(verb, "-c", file, *arguments), VERBS[verb].FLAGS, section))

    assert read("eval", "evaluation", "--limit", 3).model_dump(exclude_defaults=True) == {
        "tasks": ["humaneval", "mbpp"],
        "limit": 3,
        "data": {"mbpp": ["mbpp.jsonl"]},
    }
    assert read("eval", "evaluation", "--tasks", "mbpp,recode").tasks == ["mbpp", "recode"]
    assert read("bench", "bench", "--repeats", 2).model_dump(exclude_defaults=True) == {"batch_size": 4, "repeats": 2}
    assert read("card", "card").model_dump(exclude_defaults=True) == {"base_model": "org/dense"}
    assert read("push", "push", "--include", "x").model_dump(exclude_defaults=True) == {
        "private": True,
        "include": ["x"],
    }
    assert read("recover", "recovery", "--rank", 4).model_dump(exclude_defaults=True) == {
        "data": ["problems.jsonl"],
        "rank": 4,
    }
    settings = check_settings(pruning_from(parsed("prune", "-c", file, "--seed", 1), FLAGS))
    assert (settings.target_ratio, settings.seed, settings.data.corpus) == (0.2, 1, ["a"])


def test_a_fault_in_the_section_of_another_verb_is_not_told_but_a_name_that_nothing_reads_is(file):
    file.write_text(FILE.replace("batch_size: 4", "batch_size: 0").replace("rank: 8", "rank: 0"), encoding="utf-8")
    read = section_from(parsed("eval", "-c", file), eval.FLAGS, "evaluation")
    assert read["limit"] == 20
    with pytest.raises(ConfigurationError, match="faults in the bench settings:\n  batch_size: 0 should be greater"):
        BenchSettings.from_yaml(file)
    file.write_text(FILE.replace("bench:", "bensh:"), encoding="utf-8")
    with pytest.raises(ConfigurationError, match="flab.yaml': unknown field 'bensh'; did you mean 'bench'"):
        section_from(parsed("eval", "-c", file), eval.FLAGS, "evaluation")
    with pytest.raises(ConfigurationError, match="bensh: unknown field; did you mean 'bench'"):
        check_settings(pruning_from(parsed("prune", "-c", file), FLAGS))
    file.write_text("evaluation: [humaneval]", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"evaluation: \['humaneval'\] is not a section; set its fi"):
        section_from(parsed("eval", "-c", file), eval.FLAGS, "evaluation")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eval", "-m", "x", "--limit", "0"], "limit: 0 should be greater than or equal to 1 (--limit)"),
        (["bench", "-m", "x", "-c", "flab.yaml", "--warmup", "-1"], "equal to 0 (--warmup)"),
        (["push", ".", "me/x", "-c", "flab.yaml", "--timeout", "0"], "should be greater than 0 (--timeout)"),
        (["card", ".", "-c", "no.yaml"], "configuration file 'no.yaml' cannot be read"),
        (["prune", "-m", "x", "out", "--target-ratio", "2"], "for example 0.35 (--target-ratio)"),
        (["prune", "-m", "x", "out", "--held-out-tokens", "0"], "data.held_out_tokens: 0 should be"),
        (["prune", "-m", "x", "out", "--held-out-tokens", "0"], "equal to 1 (--held-out-tokens)"),
        (
            ["recover", "-m", "x", "out", "--teacher", "t", "--loss", "cross-entropy"],
            "no source of instruction data is named, and no plain text is read, since recovery.loss 'cross-entropy'",
        ),
    ],
)  # fmt: skip
def test_faults_name_the_field_and_its_flag(file, arguments, message):
    result = cli("flab", *arguments, cwd=file.parent)
    assert (result.returncode, result.stdout) == (2, "")
    assert message in " ".join(result.stderr.split())


def test_names_in_messages_get_their_flags():
    flags = {"data.calibration": "--calibration", "dtype": "--dtype", "limit": "--limit"}
    assert with_flags("try `dtype` float32, or name more in `data.calibration`", flags) == (
        "try --dtype float32, or name more in data.calibration (--calibration)"
    )
    assert with_flags("`optimum-cli flab prune` wrote `other`; limit: 3", flags) == (
        "`optimum-cli flab prune` wrote `other`; limit: 3"
    )
    faults = "2 faults:\n  limit: 0 is none\n  data.calibration: x (--calibration) again\nmodel: y"
    assert faults_with_flags(faults, flags) == faults.replace("is none", "is none (--limit)")


# --- what argparse would answer


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["prune", "-m", "x", "out", "--target-ration", "0.3"], "--target-ration 0.3; did you mean --target-ratio?"),
        (["eval", "-m", "x", "--tasks=mbpp", "--basline=y"], "--basline=y; did you mean --baseline?"),
        (["inspect", "-m", "x", "--zzzz"], "--zzzz"),
        (["prune", "-m", "x", "out", "--target", "0.3"], "--target 0.3; did you mean --target-ratio?"),
        (["inspect", "-m", "x", "--jsno", "-x"], "--jsno -x; did you mean --json?"),
    ],
)
def test_an_unknown_flag_is_answered_with_the_usage_of_its_verb_and_the_nearest(arguments, hint):
    result = cli("flab", *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"usage: optimum-cli flab {arguments[0]} [-h]")
    assert result.stderr.endswith(f"\noptimum-cli flab {arguments[0]}: error: unrecognized arguments: {hint}\n")


def test_a_misspelt_flag_is_named_where_argparse_misses_the_right_one():
    result = cli("flab", "inspect", "--modle", "x")
    assert result.returncode == 2
    assert result.stderr.endswith("the following arguments are required: -m/--model; did you mean --model?\n")


def test_a_push_takes_the_settings_of_its_section_as_keywords():
    from inspect import Parameter, signature

    from optimum_flab.hub.push import push_to_hub

    keywords = {
        name: parameter.default
        for name, parameter in signature(push_to_hub).parameters.items()
        if parameter.kind is Parameter.KEYWORD_ONLY
    }
    assert {**keywords, "include": []} == PushSettings().model_dump()


@pytest.mark.skipif(sys.platform == "win32", reason="needs pipes that break")
@pytest.mark.parametrize("arguments", [["eval", "--list-tasks"], ["prune", "--help"]])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_gone_is_no_fault(arguments, unbuffered):
    read, write = os.pipe()
    os.close(read)
    try:
        result = subprocess.run(
            [*COMMAND, "flab", *arguments],
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )
    finally:
        os.close(write)
    assert (result.returncode in (0, 141), result.stderr) == (True, "")


def test_a_setting_that_is_refused_stays_as_it_was():
    settings = EvaluationSettings(tasks="perplexity", data={"perplexity": "text"})
    with pytest.raises(ConfigurationError, match="not among those requested"):
        settings.tasks = "mbpp"
    assert settings.tasks == ["perplexity"]
    with pytest.raises(ConfigurationError, match="task 'mbpp' is not among"):
        EvaluationSettings(tasks="perplexity", data={"mbpp": []})


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "\nthe same command resumes"),
        ({"no_resume": False}, "\nthe same command resumes"),
        ({"no_resume": True}, "\nthe same command without --no-resume resumes"),
    ],
)
def test_who_interrupts_is_told_how_to_resume(given, told, capsys):
    with pytest.raises(KeyboardInterrupt), told_to_go_on(Namespace(**given)):
        raise KeyboardInterrupt
    assert capsys.readouterr().err.startswith(told)


def test_a_launched_verb_takes_no_abbreviations_either():
    command = [sys.executable, "-m", "optimum_flab.pruning", "-m", "x", "out", "--target", "0.3"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2 and result.stderr.endswith("--target 0.3; did you mean --target-ratio?\n")
