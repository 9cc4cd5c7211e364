"""The real client, in processes of its own: `huggingface_hub` reads the address of the Hub when it is imported, and a
process can be killed."""

from __future__ import annotations

import contextlib
import io
import logging
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
import transformers

import optimum_flab
from optimum_flab.errors import FlabError
from optimum_flab.hub.client import answers_within
from optimum_flab.hub.conversation import Conversation
from optimum_flab.hub.push import push_staged, push_to_hub
from optimum_flab.hub.staging import Staged


TESTS = Path(__file__).parent.parent
RIGHT = "hf_right0000"
# what takes seconds to import
PRELOADED = [
    *("hub.client", "optimum_flab.optimizer", "optimum_flab.hub.card", "transformers.models.qwen2.modeling_qwen2"),
    *("matplotlib.figure", "matplotlib.backends.backend_agg", "transformers.models.qwen2.tokenization_qwen2"),
]


@dataclass(frozen=True)
class Outcome:
    """How a call ended.

    Args:
        value: what it returned.
        error (`BaseException`, *optional*): what it raised, if that was meant for the user.
        failure (`str`): the traceback of anything else.
        output (`str`): everything it printed, logged or warned.
        killed (`bool`): whether the process was.
    """

    value: Any = None
    error: BaseException | None = None
    failure: str = ""
    output: str = ""
    killed: bool = False

    def result(self) -> Any:
        """What was returned; the test fails where something was raised."""
        assert not self.failure, self.failure
        assert self.error is None, self.error
        assert not self.killed
        return self.value


class Client:
    """Runs functions against a Hub, each in a process of its own."""

    def __init__(self, hub: Any):
        self.hub = hub
        self.context = multiprocessing.get_context("forkserver")

    def __call__(
        self, call: Callable[..., Any], *arguments: Any, token: str | None = RIGHT, **options: Any
    ) -> Outcome:
        environment = {"HF_TOKEN": token} if token else {}
        environment |= options.pop("environment", {})
        ours, theirs = self.context.Pipe()
        process = self.context.Process(target=answer, args=(theirs, environment, call, arguments, options))
        process.start()
        theirs.close()
        self.hub.client = process.pid
        try:
            ours.send("go")
            return ours.recv()
        except (EOFError, ConnectionError):
            process.join()
            return Outcome(killed=process.exitcode == -9, failure="" if process.exitcode == -9 else "the process died")
        finally:
            process.join(10)
            ours.close()


@contextmanager
def clients(hub: Any, home: Path) -> Iterator[Client]:
    """Clients that know nothing but this Hub."""
    before = dict(os.environ)
    for name in before:
        if name.startswith(("HF_", "HUGGING")):
            del os.environ[name]
    os.environ |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"}
    os.environ |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    # the package that the tests import, and no other that is installed
    os.environ["PYTHONPATH"] = os.pathsep.join([str(TESTS), str(Path(optimum_flab.__file__).parent.parent)])
    client = Client(hub)
    client.context.set_forkserver_preload(PRELOADED)
    try:
        client.context.Process(target=time.sleep, args=(0,)).start()  # starts the server, with this environment
    finally:
        os.environ.clear()
        os.environ |= before
    yield client


def answer(pipe: Any, environment: dict[str, str], call: Callable[..., Any], arguments: tuple, options: dict) -> None:
    """What a process does: waits until its number is known, and sends back how the call ended."""
    pipe.recv()
    os.environ |= environment
    # the waits between attempts, not the attempts, are what takes time
    waited, time.sleep = time.sleep, lambda seconds: waited(min(seconds, 0.002))
    output = io.StringIO()
    logging.basicConfig(stream=output, level=logging.DEBUG, force=True)
    huggingface_hub.logging.set_verbosity_debug()
    for name in ("huggingface_hub", "transformers", "optimum_flab"):
        logging.getLogger(name).propagate = True
        logging.getLogger(name).handlers.clear()  # they write to the standard error of before
    outcome: dict[str, Any] = {}
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            outcome["value"] = call(*arguments, **options)
        except FlabError as error:
            traceback.print_exc()
            error.__cause__ = error.__context__ = None
            outcome["error"] = error
        except BaseException:
            outcome["failure"] = traceback.format_exc()
    pipe.send(Outcome(output=output.getvalue() + process_title(), **outcome))
    pipe.close()
    sys.stdout.flush()
    os._exit(0)


def process_title() -> str:
    command = Path("/proc/self/cmdline")
    return command.read_bytes().decode("utf-8", "replace") if command.is_file() else ""


# --- what is called ------------------------------------------------------------------------------------------------


def push(*arguments: Any, **options: Any) -> Any:
    return push_to_hub(*arguments, **options)


def push_constant(staged: Staged, repo_id: str, timeout: float = 30.0, **options: Any) -> Any:
    """The requests of a push, without the checks of a checkpoint."""
    with answers_within(timeout):
        return push_staged(Conversation(huggingface_hub.HfApi()), repo_id, lambda name, card: staged, **options)


def load(repo_id: str, revision: str | None = None) -> dict[str, Any]:
    """The weights of a model on the Hub as bytes, and its tokenizer's vocabulary."""
    model = transformers.AutoModelForCausalLM.from_pretrained(repo_id, revision=revision)
    tokenizer = transformers.AutoTokenizer.from_pretrained(repo_id, revision=revision)
    weights = {name: tensor_bytes(tensor) for name, tensor in model.state_dict().items()}
    return {"weights": weights, "tokens": tokenizer.get_vocab()}


def tensor_bytes(tensor: Any) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def execute(code: str) -> None:
    exec(compile(code, "card", "exec"), {"__name__": "__main__"})
