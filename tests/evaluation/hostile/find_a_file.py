"""Second of a pair: looks for what the program before it left."""
import os
import tempfile


def solve(x):
    folders = ["/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue", "/run/lock", os.getcwd(), os.path.expanduser("~")]
    for folder in [*folders, tempfile.gettempdir(), os.path.dirname(os.getcwd())]:
        if os.path.exists(f"{folder}/{marker}-left"):
            raise RuntimeError(f"{trace} found what was left in {folder}")
    return x
