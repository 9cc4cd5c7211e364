"""Mixtures of experts: which experts stay, and which neurons inside them."""
