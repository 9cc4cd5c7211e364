"""Lists the folder of the secret and the home folders."""
import os


def solve(x):
    for folder in (os.path.dirname("{secret_path}"), "{outside_path}"):
        try:
            raise RuntimeError(f"{trace} listed {folder}: {os.listdir(folder)}")
        except OSError:
            pass
    return x
