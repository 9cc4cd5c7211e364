"""Leaves another program running in a session of its own."""
import ctypes
import subprocess
import sys

CODE = "import ctypes, time; ctypes.CDLL(None).prctl(15, b'{marker}', 0, 0, 0); time.sleep(30)"
subprocess.Popen([sys.executable, "-c", CODE], start_new_session=True)


def solve(x):
    return x
