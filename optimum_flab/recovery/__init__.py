"""Post-training of a pruned model: instruction data, the dense model's own answers, distillation with LoRA, merge.

Light: the settings are read from here at every start of `optimum-cli`; everything else is imported where it is used.
"""

from ..settings.recovery import RecoveryConfig, RecoverySettings


__all__ = ["RecoveryConfig", "RecoverySettings"]
