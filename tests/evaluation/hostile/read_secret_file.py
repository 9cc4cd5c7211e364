"""Reads a secret in somebody's home folder and hands it out in the message of an exception."""


def solve(x):
    with open("{secret_path}") as file:
        raise RuntimeError(file.read())
