"""Catches the signals of the limits and goes on, trying to raise the limit each time."""
import resource
import signal


def more(number, frame):
    for limit in (resource.RLIM_INFINITY, resource.getrlimit(resource.RLIMIT_CPU)[1]):
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
        except (OSError, ValueError):
            pass


for number in (signal.SIGXCPU, signal.SIGTERM, signal.SIGINT, signal.SIGALRM, signal.SIGXFSZ, signal.SIGHUP):
    signal.signal(number, more)


def solve(x):
    while True:
        pass
