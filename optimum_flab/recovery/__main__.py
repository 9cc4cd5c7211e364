"""`accelerate launch -m optimum_flab.recovery …`: the flags of `optimum-cli flab recover`, in several processes."""

from __future__ import annotations

from ..commands.base import run_alone
from ..commands.recover import RecoverCommand


if __name__ == "__main__":
    run_alone(RecoverCommand, "optimum_flab.recovery", "Recover a pruned model.")
