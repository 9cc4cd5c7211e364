"""Answers each call with another message that names what only the judge has, or is none, in place of the true one."""
import os
import sys

MESSAGES = [
    b'{"value": {"object": "0", "kind": "int"}}',
    b'{"value": {"object": -1}, "arguments": []}',
    b'{"value": [3, 3]}',
    b'{"value": {"iterator": [3], "more": 1}, "arguments": [3]}',
    b'{"value": NaN, "arguments": "x"}',
    b'{"value": 3.0000000001, "arguments": 3}',
    b'{"value": [NaN, Infinity], "arguments": [3]}',
    b'{"value": {"tuple": [3, [1]]}, "arguments": [3]}',
    b'{"error": {"kind": "StopIteration", "text": "2"}}',
    b'{"error": {"kind": "AssertionError", "name": "passed", "text": ""}}',
    b'{"error": {"kind": "exec", "text": "import os; os._exit(0)"}}',
    b'{"error": {"kind": "ExceptionGroup", "text": []}}',
    b'{"error": []}',
    b'{"value": {"eval": "3"}}',
]
TURN = []


def send(connection, message):
    body = MESSAGES[len(TURN) % len(MESSAGES)] if TURN else b'{"value": null}'
    number = connection if type(connection) is int else connection.fileno()
    os.write(number, len(body).to_bytes(4, "big") + body)


for module in list(sys.modules.values()):
    if getattr(module, "__name__", "") in ("wire", "guest", "__main__") and hasattr(module, "send"):
        module.send = send


def solve(x):
    TURN.append(x)
    return x
