"""Installed as `optimum/commands/register/register_flab.py`, where `optimum-cli` looks for commands."""

from optimum_flab.commands import FlabCommand


REGISTER_COMMANDS = [FlabCommand]
