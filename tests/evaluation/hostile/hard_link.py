"""Makes hard links to the secret and to somebody's file."""
import os
import tempfile


def solve(x):
    folder = tempfile.mkdtemp()
    for number, path in enumerate(("{secret_path}", "{outside_path}/canary", "/etc/shadow")):
        link = os.path.join(folder, str(number))
        try:
            os.link(path, link)
        except OSError:
            continue
        raise RuntimeError("{trace} linked " + path)
    return x
