"""Serves infilling from a GGUF file to an editor, one request after another, in the format of OpenAI's completions.

pip install llama-cpp-python
optimum-cli flab export out/ model.gguf --type q4_k_m
python examples/serve_infilling.py model.gguf
curl http://127.0.0.1:8012/v1/completions -d '{"prompt": "def add(a, b):\\n", "suffix": "\\n\\nprint(add(1, 2))\\n"}'
"""

import argparse
import json
import socket
import sys
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from llama_cpp import Llama


ADDRESS = "/v1/completions"
KEY = "tokenizer.ggml.fim_{}_token_id"
LARGEST = 10_000_000  # bytes of a request
HOTTEST = 2  # temperature
# what a request may hold, the types of it, and what it is where it is not there
FIELDS = {
    "prompt": (str, ""),
    "suffix": (str, ""),
    "max_tokens": (int, 64),
    "temperature": ((int, float), 0),
    "stop": ((str, list), []),
}


class Infiller:
    """Fills gaps with a model.

    Not by the argument `suffix` of `create_completion`, which (in llama-cpp-python 0.3.36) writes the token 0 where
    the model's tokens for infilling belong.

    Args:
        model (`Llama`): of a file that names these tokens, as `flab export` writes it.
        suffix_first (`bool`): whether the model was taught with the text behind a gap in front.
    """

    def __init__(self, model: Llama, suffix_first: bool = False):
        self.model = model
        # n_ctx() is rounded up; what Llama keeps of a text has the size that was asked for
        self.context = min(model.n_ctx(), len(model.input_ids))
        found = {name: model.metadata.get(KEY.format(name)) for name in ("pre", "suf", "mid")}
        for name in ("pre", "suf"):
            if found[name] is None:
                raise ValueError(f"the file names no token {KEY.format(name)}: its model was not taught to fill gaps")
        self.marks = {name: [int(token)] for name, token in found.items() if token is not None}
        self.suffix_first = suffix_first or "mid" not in self.marks
        adds_first = model.metadata.get("tokenizer.ggml.add_bos_token") == "true"
        self.first = [model.token_bos()] if adds_first else []

    def ids(self, prefix: str, suffix: str, max_tokens: int) -> list[int]:
        """The prompt for a gap. Of what does not fit, the text next to the gap stays."""
        # as plain text: code may well speak of the tokens for infilling
        before, behind = (self.model.tokenize(text.encode(), add_bos=False) for text in (prefix, suffix))
        room = max(0, self.context - max_tokens - len(self.first) - len(self.marks))
        kept = min(len(behind), max(room // 2, room - len(before)))
        behind, before = behind[:kept], before[max(0, len(before) - (room - kept)) :]
        parts = [self.marks["pre"] + before, self.marks["suf"] + behind]
        if self.suffix_first:
            parts.reverse()
        return [*self.first, *parts[0], *parts[1], *self.marks.get("mid", [])]

    def fill(self, request: object) -> dict:
        """The answer to a request.

        Raises:
            `ValueError`: it is malformed.
        """
        if not isinstance(request, dict):
            raise ValueError("expected an object with a prompt and a suffix")
        given = {}
        for name, (kinds, default) in FIELDS.items():
            value = request.get(name)
            given[name] = value = default if value is None else value
            if not isinstance(value, kinds) or isinstance(value, bool):
                raise ValueError(f"{name}: {value!r} is of the wrong type")
            if isinstance(value, list) and not all(isinstance(item, str) for item in value):
                raise ValueError(f"{name}: {value!r} is no list of strings")
        if "" in (given["stop"], *given["stop"]):
            raise ValueError("stop: an empty string is everywhere; leave it out")
        if not 0 <= given["temperature"] <= HOTTEST:
            raise ValueError(f"temperature: {given['temperature']} is not between 0 and {HOTTEST}")
        most, longest = given.pop("max_tokens"), self.context - len(self.first) - len(self.marks)
        if not 0 < most <= longest:
            raise ValueError(f"max_tokens: {most} is not between 1 and {longest}")
        ids = self.ids(given.pop("prompt"), given.pop("suffix"), most)
        return self.model.create_completion(ids, max_tokens=most, model=Path(self.model.model_path).name, **given)


class Server(HTTPServer):
    def __init__(self, address: tuple[str, int], infiller: Infiller):
        super().__init__(address, Handler)
        self.infiller = infiller


class Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = 5  # seconds: others wait while a client is silent

    def handle(self) -> None:
        with suppress(ConnectionError):  # an editor hangs up once it no longer wants an answer
            super().handle()

    def do_POST(self) -> None:
        if self.path != ADDRESS:
            return self.answer(404, {"error": {"message": f"nothing is here; ask {ADDRESS}"}})
        try:
            self.answer(200, self.server.infiller.fill(self.request_body()))
        except (ValueError, RecursionError) as error:  # what is no JSON, or too deep
            self.answer(400, {"error": {"message": str(error)}})

    def request_body(self) -> object:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or not 0 < int(length) <= LARGEST:
            raise ValueError(f"Content-Length: {length!r} is not between 1 and {LARGEST}")
        return json.loads(self.rfile.read(int(length)))

    def answer(self, status: int, content: dict) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="GGUF file")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8012, help="port to listen on (default: %(default)s)")
    parser.add_argument("--context", type=int, default=4096, help="tokens of prompt and gap (default: %(default)s)")
    parser.add_argument(
        "--suffix-first", action="store_true", help="for models that are shown the suffix first (default: no)"
    )
    args = parser.parse_args()
    with socket.socket() as tried:  # before the model is read
        try:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind((args.host, args.port))
        except OSError as error:
            sys.exit(f"{args.host}:{args.port} cannot be listened on: {error.strerror}; choose another --port")
    try:
        infiller = Infiller(Llama(args.model, n_ctx=args.context, verbose=False), args.suffix_first)
    except ValueError as error:  # Llama's own where the file is not there or does not load
        sys.exit(f"{args.model}: {error}")
    with Server((args.host, args.port), infiller) as server:
        print(f"listening on http://{args.host}:{server.server_port}{ADDRESS}", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
