"""The system calls that bubblewrap is told to refuse, as the filter that the kernel reads.

What namespaces and resource limits leave open: memory that belongs to no process (System V segments, memory files,
shared mappings, large socket buffers), namespaces of a program's own, and the parts of the kernel that programs never
need and attackers like.
"""

from __future__ import annotations

import errno
import platform
import struct


# name: number on x86_64 and on aarch64 (arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h)
REFUSED = {
    "add_key": (248, 217),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "io_uring_setup": (425, 425),
    "keyctl": (250, 219),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "mq_open": (240, 180),
    "msgget": (68, 186),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pivot_root": (155, 41),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "request_key": (249, 218),
    "semget": (64, 190),
    "setns": (308, 268),
    "setsockopt": (54, 208),
    "shmget": (29, 194),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}
CLONE, CLONE3, MMAP = (56, 220), (435, 435), (9, 222)
NEW_NAMESPACES = 0x7E020000  # CLONE_NEWUSER and its like
SHARED_ANONYMOUS = 0x21  # MAP_SHARED | MAP_ANONYMOUS
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
FIRST_X32 = 0x40000000  # on x86_64: the same calls once more, under other numbers

# offsets in struct seccomp_data
NUMBER, ARCHITECTURE, FIRST_ARGUMENT, FOURTH_ARGUMENT = 0, 4, 16, 40
LOAD, AND, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06
ALLOW, ERROR, KILL = 0x7FFF0000, 0x00050000, 0x80000000


def refusing_filter() -> bytes | None:
    """The filter as an array of `struct sock_filter`, or `None` for an architecture that is not known here."""
    known = ARCHITECTURES.get(platform.machine())
    if known is None or struct.pack("=I", 1) != struct.pack("<I", 1):
        return None
    column, architecture = known

    def refuse(code: int, value: int, error: int) -> list[tuple[int, int, int, int]]:
        """Two steps: the second, which returns the error, is skipped where the comparison does not hold."""
        return [(code, 0, 1, value), (RETURN, 0, 0, ERROR | error)]

    steps = [(LOAD, 0, 0, ARCHITECTURE), (EQUAL, 1, 0, architecture), (RETURN, 0, 0, KILL), (LOAD, 0, 0, NUMBER)]
    if column == 0:
        steps += refuse(AT_LEAST, FIRST_X32, errno.ENOSYS)
    for numbers in REFUSED.values():
        steps += refuse(EQUAL, numbers[column], errno.EPERM)
    # the C library then takes clone, whose flags can be seen
    steps += refuse(EQUAL, CLONE3[column], errno.ENOSYS)
    steps += [(EQUAL, 0, 4, CLONE[column]), (LOAD, 0, 0, FIRST_ARGUMENT)]
    steps += [*refuse(ANY_BIT, NEW_NAMESPACES, errno.EPERM), (RETURN, 0, 0, ALLOW)]
    steps += [(EQUAL, 0, 4, MMAP[column]), (LOAD, 0, 0, FOURTH_ARGUMENT), (AND, 0, 0, SHARED_ANONYMOUS)]
    steps += [*refuse(EQUAL, SHARED_ANONYMOUS, errno.EPERM), (RETURN, 0, 0, ALLOW)]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)
