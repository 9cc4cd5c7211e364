"""Makes a session of its own and types into the terminal of whoever started it."""
import fcntl
import os
import termios


def solve(x):
    for path in ("/dev/tty", "/dev/console", "/dev/tty0", "/dev/pts/0", "/proc/self/fd/0", "/proc/self/fd/2"):
        try:
            terminal = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            fcntl.ioctl(terminal, termios.TIOCSTI, b" ")
            raise RuntimeError("{trace} typed into " + path)
        except OSError:
            pass
    try:
        os.setsid()
    except OSError:
        pass
    return x
