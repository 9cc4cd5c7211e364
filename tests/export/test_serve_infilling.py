"""The example that serves infilling from a GGUF file; where llama.cpp is installed."""

import json
import socket
import struct
import threading
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from optimum_flab.export import export_gguf
from optimum_flab.settings.export import ExportSettings
from optimum_flab.vocabulary.infilling import infilling_format

from ..conftest import byte_level_tokenizer, script
from .test_weights import saved, tiny


llama_cpp = pytest.importorskip("llama_cpp")
EXAMPLE = Path(__file__).parents[2] / "examples" / "serve_infilling.py"
PREFIX, SUFFIX = "def add(a, b):\n    total = <|fim_suffix|>", "\n    return total\n"
MARKS = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"]


@pytest.fixture(scope="module")
def example():
    return script(EXAMPLE)


def exported(tokenizer, folder):
    export_gguf(saved(tiny("llama"), tokenizer, folder / "model"), folder / "tiny.gguf", ExportSettings(type="f32"))
    return llama_cpp.Llama(str(folder / "tiny.gguf"), n_ctx=64, n_batch=64, verbose=False, n_threads=1)


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = byte_level_tokenizer(600)
    tokenizer.add_special_tokens({"additional_special_tokens": MARKS})
    return tokenizer


@pytest.fixture(scope="module")
def infiller(example, tokenizer, tmp_path_factory):
    return example.Infiller(exported(tokenizer, tmp_path_factory.mktemp("served")))


@pytest.fixture(scope="module")
def address(example, infiller):
    with example.Server(("127.0.0.1", 0), infiller) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}{example.ADDRESS}"
        server.shutdown()
        thread.join()


def ask(address, **fields):
    return ask_with(address, json.dumps(fields).encode())


def ask_with(address, body):
    try:
        with urllib.request.urlopen(address, data=body, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_a_gap_is_asked_for_in_the_models_own_tokens(infiller, tokenizer):
    prefix = PREFIX.partition("<")[0]
    asked = infilling_format(tokenizer).ask(prefix, SUFFIX)
    assert infiller.ids(prefix, SUFFIX, 8) == tokenizer.encode(asked, add_special_tokens=False)
    marks = tokenizer.convert_tokens_to_ids(MARKS)
    assert [token for token in infiller.ids(PREFIX, SUFFIX, 8) if token in marks] == marks  # text is no token


def test_an_answer_is_what_the_model_writes_into_the_gap(address, infiller):
    status, answer = ask(address, prompt="x = ", suffix="\ny = x\n", max_tokens=8)
    ids = infiller.ids("x = ", "\ny = x\n", 8)
    expected = infiller.model.create_completion(ids, max_tokens=8, temperature=0)
    assert status == 200 and answer["object"] == "text_completion" and answer["model"] == "tiny.gguf"
    assert answer["choices"][0]["text"] == expected["choices"][0]["text"] != ""
    assert answer["usage"]["prompt_tokens"] == len(ids)
    (first, *_) = text = answer["choices"][0]["text"]
    stopped = ask(address, prompt="x = ", suffix="\ny = x\n", max_tokens=8, stop=text[1:])[1]["choices"][0]
    assert stopped["text"] == first and stopped["finish_reason"] == "stop"


def test_what_does_not_fit_goes_from_the_far_ends(infiller):
    context = infiller.context
    ids = infiller.ids("a" * context + "(", ")" + "b" * context, 8)
    assert len(ids) == context - 8
    middle = ids.index(infiller.marks["suf"][0])
    assert infiller.model.detokenize(ids[middle - 1 : middle]).endswith(b"(")
    assert infiller.model.detokenize(ids[middle + 1 : middle + 2]).startswith(b")")
    assert ids[0] == infiller.marks["pre"][0] and ids[-1] == infiller.marks["mid"][0]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "Expecting"),
        (b'{"prompt": 3}', "prompt: 3 is of the wrong type"),
        (b'{"stop": [1]}', "stop: [1] is no list of strings"),
        (b'{"max_tokens": 0}', "max_tokens: 0 is not between 1 and"),
        (b'{"temperature": NaN}', "temperature: nan is not between 0 and 2"),
        (b'{"stop": ["a", ""]}', "stop: an empty string"),
        (b"", "Content-Length: '0' is not between 1 and"),
    ],
)
def test_a_malformed_request_is_answered_with_what_is_wrong(address, body, message):
    status, answer = ask_with(address, body)
    assert status == 400 and message in answer["error"]["message"]
    assert ask(address.replace("v1", "v2"))[0] == 404


def test_a_text_of_any_length_is_answered(address, infiller):
    status, answer = ask(address, prompt="a" * 500, suffix="b" * 500, max_tokens=8)
    assert status == 200 and answer["usage"]["prompt_tokens"] == infiller.context - 8


def test_clients_that_are_silent_or_hang_up_are_no_matter(address, example, monkeypatch):
    failed = []
    monkeypatch.setattr(example.Server, "handle_error", lambda self, *args: failed.append(args))
    monkeypatch.setattr(example.Handler, "timeout", 0.2)
    body = b'{"prompt": "a", "max_tokens": 4}'
    with connected(address) as silent, connected(address) as client:
        client.sendall(b"POST /v1/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        assert ask(address, prompt="a", max_tokens=2)[0] == 200 and silent.recv(1) == b""
    assert not failed


def connected(address):
    return socket.create_connection(("127.0.0.1", urllib.parse.urlsplit(address).port), timeout=60)


def test_a_model_that_was_not_taught_to_fill_gaps_is_refused(example, tmp_path):
    with pytest.raises(ValueError, match="no token tokenizer.ggml.fim_pre_token_id: its model was not taught"):
        example.Infiller(exported(byte_level_tokenizer(600), tmp_path))


def test_the_suffix_may_come_first(example, infiller):
    other = example.Infiller(infiller.model, suffix_first=True)
    marks = [mark for (mark,) in other.marks.values()]
    assert [one for one in other.ids("a", "b", 8) if one in marks] == [marks[1], marks[0], marks[2]]
