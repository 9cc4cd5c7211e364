"""Hangs 400 attributes of 60 KB on a file, where the file system takes them, which no limit of sizes counts."""
import os
import tempfile


def solve(x):
    with tempfile.NamedTemporaryFile() as file:
        for number in range(400):
            os.setxattr(file.name, f"user.{number}", bytes(60000))
    return x
