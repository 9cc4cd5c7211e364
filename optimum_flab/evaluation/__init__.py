"""What a pruned model can still do, and what it costs to run."""
