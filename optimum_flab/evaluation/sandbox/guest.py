"""The process that runs a program: loads it, then calls its functions as the judge asks.

Forked by `serve.py` inside the sandbox. The program can change everything in this process and say whatever it
likes on the socket: that decides nothing but the values of its own answers.
"""

from __future__ import annotations

import builtins
import errno
import os
import sys
import types

from wire import Closed, decode, encode, receive, send


NOT_ALLOWED = frozenset(
    getattr(errno, name)
    for name in (
        "EPERM",
        "EACCES",
        "EROFS",
        "ENETUNREACH",
        "ENETDOWN",
        "EAGAIN",
        "ENOSPC",
        "EFBIG",
        "EMFILE",
        "EDQUOT",
    )
)


def error_message(error: BaseException) -> dict:
    """What crosses of an exception: the name of its nearest builtin class, and its text."""
    kinds = [kind.__name__ for kind in type(error).__mro__]
    name = next((kind for kind in kinds if isinstance(getattr(builtins, kind, None), type)), "Exception")
    try:
        text = str(error)
    except BaseException as failure:
        text = f"no text: its __str__ raised {type(failure).__name__}"
    forbidden = (isinstance(error, OSError) and error.errno in NOT_ALLOWED) or "gaierror" in kinds
    return {"kind": name, "name": kinds[0][:100], "text": text[:2000], "forbidden": forbidden}


class Guest:
    """A loaded program and the objects of it that the judge holds."""

    def __init__(self, code: str):
        self.code = code
        self.module = types.ModuleType("program")
        self.objects: list = []

    def keep(self, value) -> int:
        self.objects.append(value)
        return len(self.objects) - 1

    def find(self, number: int, kind: str):
        return self.objects[number]

    def load(self, request: dict):
        sys.modules["program"] = self.module
        exec(compile(self.code, "<program>", "exec", dont_inherit=True), self.module.__dict__)

    def target(self, request: dict):
        if "name" in request:
            if request["name"] not in self.module.__dict__:
                raise NameError(f"name {request['name']!r} is not defined")
            return self.module.__dict__[request["name"]]
        return self.objects[request["object"]]

    def call(self, request: dict):
        return self.target(request)(*request["arguments"], **request["keywords"])

    def get(self, request: dict):
        return getattr(self.target(request), request["attribute"])

    def set(self, request: dict):
        setattr(self.target(request), request["attribute"], request["value"])

    def answer(self, request: dict) -> dict:
        for part in ("arguments", "keywords", "value"):
            if part in request:
                request[part] = decode(request[part], self.find)
        try:
            action = {"load": self.load, "call": self.call, "get": self.get, "set": self.set}[request["do"]]
            answer = {"value": encode(action(request), self.keep)}
            if "arguments" in request:
                # what a program changed in place is changed for the test as well
                answer["arguments"] = encode(request["arguments"], self.keep)
                answer["keywords"] = encode(request["keywords"], self.keep)
            return answer
        except BaseException as error:
            return {"error": error_message(error)}


def serve(job: dict, descriptors: list[int]) -> None:
    """Answers on the socket until the judge is gone."""
    (socket,) = descriptors
    sys.path.insert(0, "")
    guest = Guest(job["code"])
    while True:
        try:
            request = receive(socket)
        except Closed:
            os._exit(0)
        answer = guest.answer(request)
        try:
            send(socket, answer)
        except (ValueError, RecursionError, MemoryError) as error:
            send(socket, {"error": error_message(error)})
