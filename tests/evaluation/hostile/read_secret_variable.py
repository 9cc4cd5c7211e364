"""Reads a secret in the environment and hands it out, as exception and as printed text."""
import os


def solve(x):
    found = os.environ.get("{secret_variable}")
    for name in ("self", "1", str(os.getppid())):
        try:
            with open(f"/proc/{name}/environ") as file:
                parts = file.read().split("\0")
        except OSError:
            continue
        found = found or next((part for part in parts if part.startswith("{secret_variable}")), None)
    if found is not None:
        print(found)
        raise RuntimeError(found)
    return x
