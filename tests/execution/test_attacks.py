from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from optimum_flab.execution import Isolation, Program

from .attacks import ATTACKS, HONEST, TEST, Attack, faults, run


pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the attacks are written for Linux"),
    pytest.mark.filterwarnings("ignore::optimum_flab.execution.SandboxWarning"),
]

# one of each kind; they take a few seconds together
SOME = """fork_wide leave_a_daemon kill_everything stop_everything memory_list fill_disk_many_files connect_tcp
send_udp read_network_tables read_secret_file read_secret_variable write_outside trace_a_process system_calls
raise_limits forge_on_every_descriptor exit_at_once exception_with_control_characters
list_the_mounts first_at_the_disk change_devices signal_through_descriptors slow_the_host_down""".split()


def check_stopped(attacks: list[Attack], isolation: Isolation) -> None:
    assert {name: found for name, found in faults(attacks, isolation).items() if found} == {}
    assert run([Program(HONEST, TEST, "solve")], isolation)[0].passed


def test_some_attacks_are_stopped(isolation):
    check_stopped([ATTACKS[name] for name in SOME], isolation)


@pytest.mark.thorough
def test_every_attack_is_stopped(isolation):
    check_stopped([*ATTACKS.values()], isolation)


def test_a_thief_finds_nothing_of_the_right_answer_before_it(isolation):
    """By the same worker, so that one process starts both; several times, as samples of a problem come."""
    honest, thief = (Program(code, TEST, "solve") for code in (HONEST, ATTACKS["read_the_program_before"].code))
    verdicts = run([honest, thief, thief] * 3, isolation, workers=1)
    assert [verdict.passed for verdict in verdicts] == [True, False, False] * 3, verdicts
    assert all(verdict.status in ("failed", "limited", "timed out") for verdict in verdicts[1:3]), verdicts


@pytest.mark.parametrize("own_user", [True, False])
def test_a_program_finds_no_file_of_the_one_before(bubblewrap, own_user):
    isolation = replace(bubblewrap, own_user=own_user and bubblewrap.own_user)
    codes = [ATTACKS[name].code.replace("{marker}", "flab-test") for name in ("leave_a_file", "find_a_file")]
    left, found = run([Program(code, TEST, "solve") for code in codes], isolation, workers=1)
    assert left.detail == found.detail == "AssertionError in: assert candidate(1) == 2"
