"""Makes files where Python would run them next time: site-packages, the standard library, its own interpreter."""
import os
import site
import sys


def solve(x):
    folders = {os.path.dirname(os.__file__), *site.getsitepackages(), site.getusersitepackages(), *sys.path}
    for folder in folders:
        for name in ("{marker}.pth", "{marker}_module.py", "__pycache__/{marker}.pyc"):
            if os.path.isdir(folder) and folder not in ("", os.getcwd()) and not folder.startswith("/tmp"):
                try:
                    with open(os.path.join(folder, name), "w") as file:
                        file.write("# written\n")
                except OSError:
                    continue
                raise RuntimeError(f"{trace} wrote {name} into {folder}")
    try:
        os.chmod(os.path.realpath(sys.executable), os.stat(sys.executable).st_mode | 0o1)
    except OSError:
        return x
    raise RuntimeError("{trace} changed the interpreter")
