"""Mixtures of experts: which experts stay, and which neurons inside them."""

from ...running.experts import chosen_experts
from .choosing import ExpertUse, rank_experts
from .narrowing import narrow_experts, survey_experts


__all__ = ["ExpertUse", "chosen_experts", "narrow_experts", "rank_experts", "survey_experts"]
