"""How far a pruned model is from the dense one."""
