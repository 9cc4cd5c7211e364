"""How `optimum-cli flab` answers: exit codes, messages with flags, and the command that a report names."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import warnings
from argparse import ArgumentParser, Namespace
from pathlib import Path

import pytest

from optimum_flab.commands import FlabCommand
from optimum_flab.commands.base import IN_BACKTICKS, FlabVerb, command_line, terminal, with_flags
from optimum_flab.commands.parser import VerbParser
from optimum_flab.commands.prune import PruneCommand
from optimum_flab.commands.recover import RecoverCommand
from optimum_flab.execution import SandboxWarning
from optimum_flab.utils.errors import ConfigurationError, FlabError

from ..conftest import flab, write_project


VERBS = {info.name: info.subcommand_class for info in FlabCommand.SUBCOMMANDS}
COMMAND = [sys.executable, "-m", "optimum.commands.optimum_cli", "flab"]


# --- what is imported


def imported_by(code: str) -> list[str]:
    """The heavy packages that some code imports."""
    heavy = ["torch", "transformers", "tokenizers", "datasets", "huggingface_hub"]
    code = f"import sys\n{code}\nprint('heavy:', *(name for name in {heavy!r} if name in sys.modules))"
    return subprocess.check_output([sys.executable, "-c", code], text=True).splitlines()[-1].split()[1:]


def test_help_imports_nothing_heavy():
    called = (
        "from optimum.commands.optimum_cli import main\n"
        "sys.argv = ['optimum-cli', 'flab', 'prune', '--help']\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "assert 'optimum_flab.commands.prune' in sys.modules"
    )
    assert imported_by(called) == []


def test_importing_the_package_imports_nothing_heavy_and_names_are_found_on_use():
    used = (
        "import optimum_flab\n"
        "assert not {'pydantic', 'optimum'} & set(sys.modules)\n"
        "assert set(optimum_flab.__all__) <= set(dir(optimum_flab))\n"
        "assert not hasattr(optimum_flab, 'Nothing')\n"
        "assert issubclass(optimum_flab.ConfigurationError, optimum_flab.FlabError)"
    )
    assert imported_by(used) == []


# --- bad usage


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("prune -m x", "the following arguments are required: OUT"),
        ("prune x --seed 1", "the following arguments are required: OUT"),
        ("prune x out more", "unrecognized arguments: more"),
        ("apply x out", "the following arguments are required: --plan FILE"),
        ("prune -m x out --dtype int8", "argument --dtype: invalid choice: 'int8'"),
        ("prune -m x out --seed=much", "argument --seed: invalid int value: 'much'"),
        ("prune -m x out --ratio 0.3", "unrecognized arguments: --ratio; did you mean --target-ratio?"),
        ("prune x --vocabulary-size=5 out", "unrecognized arguments: --vocabulary-size=5; did you mean --vocab-size"),
        ("eval -m x --basline=y", "unrecognized arguments: --basline=y; did you mean --baseline?"),
        ("prune x out --quantize q8_0", "unrecognized arguments: --quantize; did you mean --gguf?"),
        ("export x out.gguf --bits 4", "unrecognized arguments: --bits; did you mean --type?"),
        ("prune x out --gguf q4", "argument --gguf: invalid choice: 'q4'; did you mean q4_0, q4_1, q4_k_s, q4_k_m?\n"),
        ("export x o.gguf --type Q4KM", "argument --type: invalid choice: 'Q4KM'; did you mean q4_k_m,"),
        ("inspect -m x --zzzz -x", "unrecognized arguments: --zzzz -x\n"),
    ],
)
def test_wrong_arguments_are_answered_in_two_lines(arguments, message):
    verb, *rest = shlex.split(arguments)
    code, out, err = flab(verb, *rest)
    assert (code, out) == (2, "") and err.startswith(f"optimum-cli flab {verb}: error: {message}")
    assert f"\nusage: optimum-cli flab {verb} " in err and err.count("\n") == 2


@pytest.mark.parametrize(
    ("verb", "arguments", "expected"),
    [
        ("prune", "x out", {"model": "x", "output": Path("out")}),
        ("prune", "x --seed 1 out", {"model": "x", "output": Path("out")}),
        ("prune", "out -m x", {"model": "x", "output": Path("out")}),
        ("recover", "x --teacher t out", {"model": Path("x"), "output": Path("out")}),
        ("eval", "x", {"model": "x"}),
        ("eval", "--list-tasks", {"model": None}),
        ("push", "--dry-run x me/x", {"folder": "x", "repo_id": "me/x"}),
        ("count", "a b -m x -o c.npz", {"model": "x", "sources": ["a", "b"]}),
    ],
)
def test_what_m_names_may_come_by_its_place(verb, arguments, expected):
    parser = VerbParser()
    VERBS[verb].parse_args(parser)
    given = vars(parser.parse_args(shlex.split(arguments)))
    assert {name: given[name] for name in expected} == expected


def test_help_of_prune_fits_a_screen_and_all_of_it_is_one_word_away():
    short, full = (flab("prune", "--help", *topic).out for topic in ([], ["all"]))
    lines = short.splitlines()
    assert len(lines) <= 120 and max(map(len, lines)) <= 80
    flags = set(re.findall(r"--[a-z][a-z-]+(?= |$)", full, re.MULTILINE))
    assert len(flags) > 50 and all(flag in short for flag in flags)
    assert "sources whose tokens stay in the vocabulary\n" in short and "Vocabulary:" in lines
    assert "may be given several times" in " ".join(full.split()) and "\nCriteria: " in full


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("prune -m x out --target-ratio 1%", "(--target-ratio): '1%' should be a valid number; write 1% as 0.01"),
        ("prune -m x out -c laptop --target-ratio 2", "(--target-ratio): '2' should be less than 1; write 2% as 0.02"),
        ("prune -m x out --mix own=-1", "data.mix.own (--mix): '-1' should be greater than or equal to 0"),
        ("prune -m x out -c flab.json", "ffn.widht: unknown setting; near it are "),
        ("eval -m x --limit 0", "evaluation.limit (--limit): 0 should be greater than 0"),
        ("chat x --temperature -1", "temperature (--temperature): -1.0 is neither 0 nor a positive number"),
        ("prune -m x out --target-ratio 35%", "(--target-ratio): '35%' should be a valid number; write 35% as 0.35"),
        (
            "prune -m x out --coverage 99.5",
            "(--coverage): '99.5' should be less than or equal to 1; write 99.5% as 0.995",
        ),
        ("prune -m x out --target-size 100M", "'100M' is not a size in bytes; did you mean 100MB?"),
        ("prune -m x out --mix C++=1", "data.mix (--mix): 'C++' should be 'own', 'answers', 'problems', 'library',"),
        ("prune -m x out --calibration-tokens 0", "(--calibration-tokens): '0' should be greater than 0 or 'auto'\n"),
        ("prune -m x out --held-out-tokens 100000000000", "(--held-out-tokens): 100000000000 should be less than or"),
        ("card x --base-model owner", "(--base-model): 'owner' is no repository; write it as owner/name"),
        ("card x --license Apache2", "(--license): 'Apache2' is no licence of the Hub; near it are apache-2.0"),
        ("push folder-that-is-missing me/x", "folder 'folder-that-is-missing' does not exist"),
        ("count a.py -m x -o a.txt", "output (--output): 'a.txt' does not end in .npz; name a file that does"),
        ("prune -m x out --cache-dir ~nosuchuser/x", "'~nosuchuser/x' begins with a user that is not known here"),
        ("prune -m x out --cache-dir out/x", "(--cache-dir): out/x is in the output folder out"),
    ],
)
def test_a_fault_ends_with_its_message_its_flag_and_nothing_written(tmp_path, arguments, message):
    (tmp_path / "flab.json").write_text(json.dumps({"ffn": {"widht": 3}}), encoding="utf-8")
    code, out, err = flab(*shlex.split(arguments), cwd=tmp_path)
    assert (code, out) == (2, "") and err.startswith("optimum-cli flab: error: ") and message in err
    assert os.listdir(tmp_path) == ["flab.json"]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    write_project(folder, "m", "texts")
    (folder / "file").write_text("x", encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("prune m out --target-ratio 0.3 --target-size 1MB", 2, "1MB is another target than target_ratio; drop one"),
        ("prune m out --target-ratio 0.9 -c small.yaml", 2, "(--target-ratio): 0.9 cannot be reached with what is"),
        (
            "prune m out --target-size 85",
            2,
            "(--target-size): '85' has no unit, so that it would be bytes; write it as 85MB",
        ),
        ("prune m out --target-size 30%", 2, "1.2GB or 286MiB, and a share as `target_ratio` (--target-ratio)"),
        ("prune m out --target-size 1e3", 2, "(--target-size): '1e3' is not a size in bytes; write it as 300MB"),
        ("prune m out --target-size 10KB -c small.yaml", 2, "10KB as the smallest formats is less than the"),
        ("prune m out --gguf q4_k_m,q8_0", 2, "argument --gguf: invalid choice: 'q4_k_m,q8_0'"),
        ("prune m out --mix answers=two", 2, "data.mix.answers (--mix): 'two' should be a valid number"),
        ("prune m out -c texts", 2, "configuration file 'texts' cannot be read: "),
        ("prune m file", 1, "file is a file; name another folder"),
        ("prune m m", 2, "which this run reads and would replace; name another"),
        ("prune texts m", 1, "which is no part of a pruned model and is not replaced; name another folder"),
        ("recover m out --teacher m", 2, "folder 'm' is not a complete pruned model, since it lacks flab_plan.json"),
        ("eval m --tasks codeharmony --data codeharmony", 2, "--data: 'codeharmony' is not of the form KEY=VALUE"),
        ("chat file", 1, "model 'file' is a file but not a .gguf file; name the folder"),
        ("compare m", 2, "folder 'm' has neither flab_report.json nor flab_evaluation.json"),
        ("apply m out --plan texts", 1, "texts/flab_plan.json' cannot be read"),
        ("count gone.py -m m -o c.npz", 1, "source 'gone.py' does not exist; name a file"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is(project, arguments, code, message):
    before = sorted(os.listdir(project))
    ended = flab(*shlex.split(arguments), cwd=project)
    assert (ended.code, ended.out) == (code, "") and message in ended.err
    assert "Traceback" not in ended.err and sorted(os.listdir(project)) == before


def test_an_error_of_the_user_ends_with_its_message_and_exit_code_and_one_of_ours_with_its_traceback(capsys):
    for error, code in ((FlabError("no luck"), 1), (ConfigurationError("no luck"), 2)):
        with pytest.raises(SystemExit) as end, terminal():
            raise error
        assert (end.value.code, capsys.readouterr().err) == (code, "optimum-cli flab: error: no luck\n")
    with pytest.raises(ZeroDivisionError), terminal():
        raise ZeroDivisionError


def test_where_memory_ends_it_is_said_what_takes_less(capsys):
    with pytest.raises(SystemExit), terminal({"batch_size": "--batch-size"}):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes")
    last = "there is too little memory (DefaultCPUAllocator: can't allocate memory: you tried 9 bytes)"
    assert f"{last}; try a smaller `batch_size` (--batch-size)\n" in capsys.readouterr().err
    with pytest.raises(RuntimeError, match="of ours"), terminal():
        raise RuntimeError("a fault of ours")


@pytest.mark.filterwarnings("default")
def test_a_warning_of_ours_is_one_line_said_once_and_one_of_others_as_python_says_it(capsys):
    with pytest.warns(UserWarning) as others, terminal():
        for number in (1, 2):
            warnings.warn_explicit("less isolation", SandboxWarning, f"place {number}", number)
        warnings.warn_explicit("of others", UserWarning, "place", 3)
    assert capsys.readouterr().err == "optimum-cli flab: warning: less isolation\n"
    assert [str(one.message) for one in others] == ["of others"]


def test_names_in_messages_get_their_flags():
    flags = {"data.calibration": "--calibration", "dtype": "--dtype", "limit": "--limit"}
    assert with_flags("try `dtype` float32, or name more in `data.calibration`", flags) == (
        "try `dtype` (--dtype) float32, or name more in `data.calibration` (--calibration)"
    )
    assert with_flags("faulty settings:\n  limit: 0\nx", flags) == "faulty settings:\n  limit (--limit): 0\nx"
    unchanged = "`optimum-cli flab prune` wrote `other`; limit: 3"
    assert with_flags(unchanged, flags) == unchanged
    table = "limit: 3\nnote: see `limit`"
    assert with_flags(table, flags, IN_BACKTICKS) == f"{table} (--limit)"


# --- ends that only a process has


def test_an_interrupt_exits_with_130_and_one_line(tmp_path, interruptible):
    pipe = tmp_path / "flab.yaml"
    os.mkfifo(pipe)
    command = [*COMMAND, "prune", "-m", "x", str(tmp_path / "out"), "-c", str(pipe)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with pipe.open("w"):  # opens once the command has begun to read
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (130, "") and not (tmp_path / "out").exists()
    assert stderr.startswith("optimum-cli flab: interrupted") and stderr.count("\n") == 1


@pytest.mark.parametrize(("arguments", "hint"), [({}, ""), ({"cache_dir": None}, "; the same command resumes")])
def test_who_interrupts_is_told_how_to_resume_and_may_interrupt_again(arguments, hint, capsys, interruptible):
    class Waits(FlabVerb):
        def execute(self):
            raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        Waits(None, Namespace(**arguments), from_defaults_factory=True, parser=ArgumentParser()).run()
    assert end.value.code == 130 and f"interrupted{hint}" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL  # ends what Python does at its end, without a traceback


@pytest.mark.parametrize("arguments", [["recipes"], ["prune", "--help", "all"]])
def test_a_reader_that_has_gone_is_no_fault(arguments):
    read, write = os.pipe()
    os.close(read)
    result = subprocess.run([*COMMAND, *arguments], stdout=write, stderr=subprocess.PIPE, text=True, timeout=120)
    os.close(write)
    assert (result.returncode in (0, 141), result.stderr) == (True, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_output_that_cannot_be_written_is_told_in_one_line():
    with open("/dev/full", "w") as full:
        result = subprocess.run([*COMMAND, "recipes"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert result.returncode == 1 and "the output could not be written (No space left" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_folder_that_was_deleted_while_a_shell_is_in_it_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tmp_path.rmdir()
    ended = flab("prune", "m", "out")
    assert ended.code == 1 and "the current folder was deleted; change to another one" in ended.err


def test_what_the_encoding_of_the_output_lacks_is_escaped(monkeypatch):
    class Prints(FlabVerb):
        def execute(self):
            print("größe")

    output = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", output)
    Prints(None, Namespace(), from_defaults_factory=True, parser=ArgumentParser()).run()
    assert output.buffer.getvalue() == b"gr\\xf6\\xdfe\n"


# --- the command that a run was started with


def parser_of(verb) -> ArgumentParser:
    parser = ArgumentParser()
    verb.parse_args(parser)
    return parser


def test_the_command_of_a_run_is_told_without_paths_of_the_machine(tmp_path, monkeypatch):
    (tmp_path / "corp" / "secrets").mkdir(parents=True)
    (tmp_path / "private").mkdir()
    for name in ("rows.jsonl", "flab.yaml", "a.npz", "b.npz", "family.json"):
        (tmp_path / "private" / name).touch()
    monkeypatch.chdir(tmp_path)
    parser = parser_of(PruneCommand)
    given = f"""--model=corp/secrets private/runs/out --corpus corp/secrets --corpus=org/data:test[a] --calibration
        {tmp_path}/private/rows.jsonl[a,b] --keep-token </s> --no-ffn --target-ratio 0.3 -c private/flab.yaml
        --overwrite --prompt secret --dtype auto --seed 7 --memory-budget 6GB --cache-dir private/cache --counts
        private/a.npz {tmp_path}/private/b.npz --family private/family.json --mix own=1 --mix chat=0.5"""
    assert command_line("prune", parser, parser.parse_args(given.split())) == (
        "optimum-cli flab prune -m secrets --family family.json out -c flab.yaml --target-ratio 0.3 --seed 7"
        " --corpus secrets --corpus 'org/data:test[a]' --counts a.npz --counts b.npz --calibration 'rows.jsonl[a,b]'"
        " --mix own=1 --mix chat=0.5 --keep-token '</s>' --no-ffn"
    )


@pytest.mark.parametrize("name", ["a[1]/rows.jsonl", "[a]/b[1]/rows.jsonl"])
def test_brackets_in_names_of_folders_hide_no_path(name, tmp_path):
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.touch()
    parser = parser_of(PruneCommand)
    told = parser.parse_args(["-m", str(path.parent), "out", "--corpus", str(path), f"--calibration={path}[a,b]"])
    assert str(tmp_path) not in command_line("prune", parser, told)


def test_a_model_of_the_hub_keeps_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org").mkdir()
    arguments = ["-m", "runs/out", "runs/better", "--teacher", "org/model", "--data", "org/data", "--keep-adapter"]
    parser = parser_of(RecoverCommand)
    told = command_line("recover", parser, parser.parse_args(arguments))
    assert told == "optimum-cli flab recover -m out better --teacher org/model --data org/data --keep-adapter"


def test_what_is_told_can_be_parsed_again():
    parser = parser_of(PruneCommand)
    given = parser.parse_args(["-m", "model", "out", "--keep-token", "a 'b' \"c\"\n", "--no-layers", "--keep-used"])
    words = shlex.split(command_line("prune", parser, given))
    assert vars(parser.parse_args(words[3:])) == vars(given)
