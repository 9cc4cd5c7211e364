"""The tasks that ship: one YAML each, in lm-eval's format, and the functions that they name."""
