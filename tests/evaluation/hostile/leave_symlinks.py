"""Leaves links in its folder, for a clean-up that follows them."""
import os
import tempfile


def solve(x):
    for folder in {os.getcwd(), tempfile.gettempdir()}:
        for number, target in enumerate(("{outside_path}", "{outside_path}/canary", "/", "..")):
            try:
                os.symlink(target, os.path.join(folder, f"{marker}-link-{number}"))
            except OSError:
                pass
    return x
