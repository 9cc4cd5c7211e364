"""Prunes a third of a model's parameters and compares a completion before and after.

python examples/prune.py flab-demo out
"""

import sys

from optimum_flab import FlabOptimizer, FlabPrunerConfig


def main(model: str, output: str) -> None:
    optimizer = FlabOptimizer.from_pretrained(model)
    optimizer.prune(FlabPrunerConfig(target_ratio=0.35), save_directory=output)
    print(optimizer.summary())
    for name, text in optimizer.complete("def fibonacci(n):").items():
        print(f"--- {name}\n{text}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python examples/prune.py MODEL OUTPUT")
    main(*sys.argv[1:])
