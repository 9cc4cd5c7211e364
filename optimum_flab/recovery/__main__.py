"""`accelerate launch -m optimum_flab.recovery …`: the flags of `optimum-cli flab recover`, in several processes."""

from __future__ import annotations

from argparse import ArgumentParser

from ..commands.recover import RecoverCommand


def main() -> None:
    parser = ArgumentParser(prog="python -m optimum_flab.recovery", description="Recover a pruned model.")
    RecoverCommand.parse_args(parser)
    command = RecoverCommand.__new__(RecoverCommand)
    command.parser, command.args = parser, parser.parse_args()
    command.run()


if __name__ == "__main__":
    main()
