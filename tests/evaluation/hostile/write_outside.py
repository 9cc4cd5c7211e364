"""Writes a file into somebody's folder."""
import os


def solve(x):
    os.makedirs("{outside_path}", exist_ok=True)
    with open("{outside_path}/{marker}-written", "w") as file:
        file.write("written")
    return x
