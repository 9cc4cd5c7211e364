"""What a process gives up for good, and with it all that it starts: privileges, files and system calls. The rest of
the package takes from here what it must know of Landlock."""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from functools import lru_cache


NO_NEW_PRIVILEGES = 38  # PR_SET_NO_NEW_PRIVS
SECCOMP, FILTER = 22, 2  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
CAPABILITIES_VERSION = 0x20080522
# system calls of Landlock, the same on all processors, and its kind of rule for files
CREATE_RULESET = 444
ADD_RULE = 445
RESTRICT_SELF = 446
PATH_BENEATH = 1
# its rights (include/uapi/linux/landlock.h)
EXECUTE = 1 << 0
WRITE = 1 << 1
READ = 1 << 2
LIST = 1 << 3
TRUNCATE = 1 << 14
DEVICES = 1 << 15
ALL = (1 << 16) - 1
LOOK, USE = EXECUTE | READ | LIST, READ | WRITE | TRUNCATE
OF_FILES = EXECUTE | USE | DEVICES
# its versions that brought the last right to write, rules for TCP, for devices, and for signals and abstract sockets
TRUNCATE_SINCE = 3
NETWORK_SINCE = 4
DEVICES_SINCE = 5
SCOPES_SINCE = 6
BOTH = 3


@lru_cache
def libc() -> ctypes.CDLL:
    """The C library."""
    return ctypes.CDLL(None, use_errno=True)


def prctl(option: int, value: int, argument: bytes | None = None) -> None:
    """Sets an option of this process with the system call of that name."""
    checked(libc().prctl(option, value, argument, 0, 0))


def checked(result: int) -> int:
    """A result of the C library, unless it tells of an error."""
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def drop_capabilities() -> None:
    """Drops what root may do beyond other users; without new privileges no program brings it back."""
    checked(libc().capset(struct.pack("=II", CAPABILITIES_VERSION, 0), bytes(24)))


def refuse_calls(steps: bytes) -> None:
    """Installs a filter of system calls, an array of `struct sock_filter`."""
    array = ctypes.create_string_buffer(steps)
    prctl(SECCOMP, FILTER, struct.pack("@HP", len(steps) // 8, ctypes.addressof(array)))


def landlock_version() -> int:
    """The version of Landlock in this kernel; 0 where it has none, or it is turned off."""
    if sys.platform != "linux":
        return 0
    return max(0, libc().syscall(CREATE_RULESET, None, 0, 1))  # LANDLOCK_CREATE_RULESET_VERSION


def restrict(rights: dict[str, int], version: int) -> None:
    """Keeps this process by Landlock from all files but some, from TCP, and from processes and sockets outside.

    Args:
        rights (`dict[str, int]`): by path, what may be done with a file or a folder and all in it; what does not
            exist is left out.
        version (`int`): of Landlock in this kernel.
    """
    handled = ALL if version >= DEVICES_SINCE else ALL & ~DEVICES
    network, scopes = (BOTH if version >= since else 0 for since in (NETWORK_SINCE, SCOPES_SINCE))
    rules = checked(
        libc().syscall(CREATE_RULESET, struct.pack("=QQQ", handled, network, scopes), ctypes.c_size_t(24), 0)
    )
    for path, allowed in rights.items():
        if os.path.exists(path):
            file = os.open(path, os.O_PATH)
            allowed &= handled if os.path.isdir(path) else handled & OF_FILES
            checked(libc().syscall(ADD_RULE, rules, PATH_BENEATH, struct.pack("=Qi", allowed, file), 0))
            os.close(file)
    checked(libc().syscall(RESTRICT_SELF, rules, 0))
    os.close(rules)


def without(hidden: list[str], path: str) -> dict[str, int]:
    """Rights to look at a file or folder, but not at the hidden ones in it, of which only names are seen."""
    if path in hidden:
        return {}
    if not any(each.startswith(f"{path}/") for each in hidden):
        return {path: LOOK}
    inner = [entry.path for entry in os.scandir(path) if not entry.is_symlink()]
    return {path: LIST} | {key: value for each in inner for key, value in without(hidden, each).items()}
