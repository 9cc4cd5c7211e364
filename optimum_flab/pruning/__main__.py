"""`accelerate launch -m optimum_flab.pruning …`: the flags of `optimum-cli flab prune`, in several processes."""

from __future__ import annotations

from ..commands.base import run_alone
from ..commands.prune import PruneCommand


if __name__ == "__main__":
    run_alone(PruneCommand, "optimum_flab.pruning", "Prune a model.")
