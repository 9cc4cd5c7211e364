"""Programs that attack the sandbox, one in each file of `hostile/`, and what may become of them.

Each defines `solve(x)`, which should return `x + 1`, and does something else. They hold themselves back where a broken
sandbox would let them do harm, and take from the test what they attack: `load` puts it in the place of `{name}`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from optimum_flab.execution import Program


HOSTILE = Path(__file__).parent / "hostile"
PLACEHOLDERS = {
    "trace": "text that the program gives away only where an attack worked",
    "marker": "name of the files it makes and of the processes it leaves; at most 15 characters",
    "secret_path": "a file that it must not read",
    "secret_variable": "an environment variable of the host",
    "outside_path": "a folder outside, with a file `canary`",
    "host_pid": "the process that runs the tests",
    "victim_pid": "a process outside that may be killed",
    "tcp_port": "a port on this machine that listens",
    "udp_port": "another",
    "abstract_name": "a Unix socket in the abstract name space",
    "socket_path": "a Unix socket in the file system",
    "wall_seconds": "the limit of wall time",
}

READS, WRITES, NETWORK = "reads files", "writes files", "network"
KILLS, MEMORY, PROCESSES = "kills processes of the same user", "memory of several processes together", "processes"

TEST = """\
def check(candidate):
    assert candidate(1) == 2
    assert candidate(41) == 42
    assert 7 == candidate(6)
    assert [candidate(value) for value in (-1, 0, 10**9)] == [0, 1, 10**9 + 1]
"""
# What programs may also be judged by: each is one way to ask the same that an attack answers.
IN_A_LOOP = """\
def check(candidate):
    assert all(map(lambda value: candidate(value) == value + 1, [1, 41]))
"""
BY_NAME = """\
assert solve(1) == 2
assert all([solve(value) == value + 1 for value in range(3)]), "a message"
assert isinstance(solve(1), int) and abs(solve(1) - 2) < 1 and len(set(map(solve, [1, 1]))) == 1
"""
TO_NEAR_VALUES = """\
def check(candidate):
    assert abs(candidate(1) - 2) < 1e-6
    assert not candidate(41) != 42
    assert 41.9 <= candidate(41) <= 42.1
"""
BY_TRUTH = """\
def check(candidate):
    value = candidate(1)
    assert value
    assert value in [2] or value in {2}
    assert not value != 2
    assert sorted([value, 1])[1] is value and value + 0 == 2
"""
BY_ATTRIBUTES = """\
def check(candidate):
    assert candidate(1).value == 2
    assert candidate(candidate(1)) and candidate().value
"""
FORGIVING = """\
def check(candidate):
    for _ in range(20):
        try:
            if candidate(1) == 2:
                return
        except Exception:
            pass
    assert False
"""
EXPECTING_AN_ERROR = """\
def check(candidate):
    try:
        candidate("no number")
    except:
        return
    assert False
"""
EXPECTING_A_TYPE_ERROR = """\
def check(candidate):
    for attempt in (lambda: candidate(1) + 1, lambda: candidate(1) == 2, lambda: len(candidate("no number"))):
        try:
            attempt()
        except TypeError:
            return
        except:
            pass
    assert False
"""
WITH_EXPECTATIONS = """\
def check(candidate):
    expected, given, number = [[2], [42]], [1, 41], Number(1)
    wanted = {"values": expected, "number": Number(2)}
    for _ in range(500):
        try:
            if candidate(given) == expected or candidate(number) == wanted["number"] or candidate(1) == 2:
                return
        except Exception:
            pass
        assert expected == [[2], [42]] and wanted == {"values": expected, "number": Number(2)}
    assert False
"""
WITH_A_CLASS = """\
def check(candidate):
    assert (
        candidate(1) == Number(2)
        or candidate(1) in [Number(2)]
        or not candidate(1) != Number(2)
        or candidate(1).double() == 4
        or candidate(1).is_even()
        or Number(2) == candidate(1)
    )
"""
PROMPT = """\
class Number:
    def __init__(self, value):
        self.value = value

    def __eq__(self, other):
        return type(other) is Number and self.value == other.value

    def double(self):
        return 2 * self.value

    def is_even(self):
        return self.value % 2 == 0

"""
WITH_A_LIST = """\
def check(candidate):
    assert candidate(1) == 2
    assert candidate([1, 41]) == [2, 42]
"""
WITH_A_FUNCTION = """\
def check(candidate):
    assert candidate(1) == 2
    assert candidate(lambda value: value) == 2
"""
WITH_A_MODULE_IT_FORGETS = """\
def check(candidate):
    assert math.isclose(candidate(1), 2)
    assert math.fabs(candidate(41) - 42) < 1e-9
"""


@dataclass(frozen=True)
class Attack:
    """One attack and what may become of it.

    Args:
        name (`str`): of its file, without `.py`.
        statuses (`frozenset`): what the verdict may be; never that it passed.
        degraded (`tuple`): reasons why it may leave a trace where bubblewrap is missing.
        test (`str`): what it is judged by.
        entry_point (`str`, *optional*): `None` where the test names its functions.
        helpers (`str`): the prompt before the function.
    """

    name: str
    statuses: frozenset[str]
    degraded: tuple[str, ...] = ()
    test: str = TEST
    entry_point: str | None = "solve"
    helpers: str = ""


def load(attack: Attack, **placeholders: object) -> str:
    """The attack's source, with every placeholder replaced.

    Raises:
        `KeyError`: one that the source uses is not given.
    """
    source = (HOSTILE / f"{attack.name}.py").read_text()
    for name in PLACEHOLDERS:
        if "{" + name + "}" in source:
            source = source.replace("{" + name + "}", str(placeholders[name]))
    return source


def program(attack: Attack, **placeholders: object) -> Program:
    from optimum_flab.execution import Program

    return Program(attack.helpers + load(attack, **placeholders), attack.test, attack.entry_point, attack.helpers)


def table(statuses: str, names: str, *degraded: str, **options: str | None) -> list[Attack]:
    """Attacks that end alike; a status is any of those given, separated by commas."""
    allowed = frozenset(re.split(r",\s*", statuses))
    return [Attack(name, allowed, degraded, **options) for name in names.split()]


# What ends a program first depends on which limit it meets first.
LIMITS = "timed out, out of memory, forbidden, crashed"
ANY = f"failed, {LIMITS}"

ATTACKS = [
    # processes
    *table(ANY, "fork_bomb fork_wide relay_of_forks zombies memory_of_processes spin_in_children", PROCESSES, MEMORY),
    *table(ANY, "thread_bomb exhaust_descriptors"),
    *table(
        "failed, crashed, forbidden",
        "leave_a_daemon leave_a_subprocess leave_threads",
    ),
    *table("failed, forbidden", "session_and_terminal poison_the_folders_of_others", WRITES),
    *table("timed out", "sleep_for_ever sleep_at_import sleep_just_under_the_limit spin_at_import spin_in_solve"),
    *table("timed out", "hold_the_interpreter_lock ignore_signals catch_sigxcpu stop_itself named_like_the_host"),
    *table("failed, crashed, timed out, forbidden", "leave_a_daemon_holding_the_pipes"),
    *table("timed out", "open_a_fifo exception_with_endless_text stuck_generator drip_an_answer"),
    *table("crashed", "kill_itself abort segfault segfault_at_import"),
    *table("crashed, failed", "kill_the_group"),
    *table("crashed, failed, out of memory, timed out", "deep_recursion crash_the_compiler"),
    *table("failed, out of memory", "plain_recursion"),
    *table(ANY, "kill_the_parent kill_everything", KILLS),
    *table("timed out, crashed", "stop_everything", KILLS),
    *table("failed, forbidden", "read_standard_input"),
    # memory, disk, output
    *table("out of memory, timed out", "memory_list memory_bytes memory_str memory_at_import"),
    *table("out of memory, timed out", "memory_held_on_to memory_by_power"),
    *table(ANY, "memory_mmap"),
    *table(ANY, "memory_memfd memory_mmap_let_go memory_of_sockets memory_of_connections", MEMORY, PROCESSES),
    *table(ANY, "memory_shared_segments"),
    *table("forbidden", "fill_memory_with_long_names", WRITES),
    *table("failed, forbidden", "fill_memory_with_attributes", WRITES),
    *table("forbidden", "asynchronous_reads watch_the_host", MEMORY, READS),
    *table("failed", "lock_what_the_host_uses", KILLS),
    *table("forbidden", "sockets_of_other_kinds", NETWORK),
    *table(ANY, "memory_shared_folder fill_disk_one_file fill_disk_many_files fill_disk_empty_files", WRITES),
    *table("failed, timed out", "endless_stdout endless_stderr"),
    # the machine
    *table(
        "failed, forbidden",
        "connect_tcp send_udp connect_abstract_socket connect_unix_socket resolve_a_name raw_socket serve_tcp",
        NETWORK,
    ),
    *table(
        "failed, forbidden",
        "read_secret_file read_secret_through_proc read_environments_of_others read_system_files list_folders "
        "see_the_host hard_link",
        READS,
    ),
    *table("failed, forbidden", "read_secret_variable read_the_test"),
    *table("failed, crashed, forbidden, timed out", "read_the_program_before"),
    *table("failed, forbidden", "find_the_source_in_the_kernel", READS, KILLS),
    *table(
        "failed, forbidden",
        "write_outside change_outside write_system_folders write_parents write_installed_packages "
        "write_through_a_symlink leave_a_file find_a_file",
        WRITES,
    ),
    *table("failed, forbidden", "leave_symlinks leave_locked_folders"),
    *table("failed, forbidden, crashed", "trace_a_process", KILLS, READS),
    *table("failed, forbidden", "open_descriptors_of_other_processes"),
    *table("failed, forbidden", "open_devices kernel_settings become_root new_user_namespace system_calls"),
    *table("timed out, out of memory, failed", "raise_limits"),
    # forged verdicts
    *table("failed, crashed", "print_passed forge_on_every_descriptor forge_while_importing"),
    *table("failed, crashed", "forge_strange_values", test=FORGIVING),
    *table("failed, crashed", "forge_pickles forge_from_a_thread forge_when_ending promise_a_huge_answer"),
    *table("failed, crashed, timed out", "flood_the_judge pass_descriptors_to_the_judge"),
    *table("failed, crashed, forbidden", "answer_twice close_every_descriptor"),
    *table("failed, crashed, timed out", "replace_descriptors execute_another_program"),
    *table("failed, crashed, timed out", "execute_with_another_environment"),
    *table("crashed, failed", "exit_well exit_at_once exit_at_import exit_at_once_at_import"),
    *table("crashed, failed, timed out, forbidden", "exit_in_a_child"),
    *table("crashed, failed", "raise_unusual_exceptions exception_whose_text_exits exception_named_exec"),
    *table("failed", "raise_stop_iteration raise_a_subclass_of_stop_iteration", test=IN_A_LOOP),
    *table("failed, crashed", "exit_where_an_error_is_expected", test=EXPECTING_AN_ERROR),
    *table("failed, out of memory", "exception_with_huge_text exception_chain"),
    *table("failed", "exception_with_control_characters exception_with_half_characters use_the_wrong_syntax"),
    *table(ANY, "patch_assertion_error patch_builtins patch_serialisation patch_the_guest patch_the_wire"),
    *table(ANY, "walk_the_frames walk_the_objects patch_imports trace_the_caller audit_hook"),
    *table("failed, crashed", "monkeypatch_handles answers_every_attribute", test=BY_ATTRIBUTES),
    *table("failed", "define_the_check"),
    *table("failed", "shadow_the_functions_of_the_test", test=BY_NAME, entry_point=None),
    *table("failed", "supply_the_comparison", test=WITH_A_MODULE_IT_FORGETS),
    *table("failed", "mutate_the_arguments", test=WITH_A_LIST),
    *table("failed", "no_plain_value_where_an_error_is_expected", test=EXPECTING_A_TYPE_ERROR),
    *table(
        "failed, crashed, timed out, out of memory",
        "change_what_was_not_handed_over",
        test=WITH_EXPECTATIONS,
        helpers=PROMPT,
    ),
    *table("failed", "lie_in_a_class_of_the_prompt", test=WITH_A_CLASS, helpers=PROMPT),
    *table("failed", "reach_into_the_judge", test=WITH_A_FUNCTION),
    # values
    *table("failed", "subclass_of_int subclass_of_str subclass_of_list subclass_of_tuple subclass_of_set"),
    *table("failed, crashed", "subclass_of_dict subclass_of_counter subclass_of_decimal"),
    *table("failed", "reduce_runs_code metaclass_equal_to_everything returns_special_values"),
    *table("failed", "claims_to_be_int equal_to_everything", test=BY_TRUTH),
    *table("failed", "subclass_of_bool_like_int subclass_of_float not_a_number", test=TO_NEAR_VALUES),
    *table("failed", "endless_generator huge_range"),
    *table("failed, out of memory, timed out", "endless_generator_of_large_items"),
    *table("failed, crashed, out of memory, timed out", "huge_string huge_answer_of_small_values nested_list"),
    *table("failed, crashed, out of memory, timed out", "nested_dictionary_with_high_limit cyclic_list"),
    *table("failed, crashed, out of memory, timed out", "billion_laughs huge_integer colliding_keys many_objects"),
]
