"""Changes, renames and removes a file in somebody's folder."""
import os


def solve(x):
    path = "{outside_path}/canary"
    for change in (
        lambda: os.chmod(path, 0o777),
        lambda: os.utime(path, (0, 0)),
        lambda: open(path, "w").close(),
        lambda: os.truncate(path, 0),
        lambda: os.rename(path, path + "-renamed"),
        lambda: os.remove(path),
    ):
        try:
            change()
        except OSError:
            pass
    return x
