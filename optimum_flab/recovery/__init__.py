"""Post-training of a pruned model: instruction data, the dense model's own answers, distillation with LoRA, merge.

Lightweight: the settings are read from here whenever `optimum-cli` starts; everything else is imported where it is
used.
"""

from ..settings.recovery import RecoveryConfig


__all__ = ["RecoveryConfig"]
