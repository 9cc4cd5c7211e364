"""What training minimises, as functions of logits; everything in float32.

Distillation minimises the *divergence*, KL(dense ‖ pruned) of the next token over the kept vocabulary, in nats.
"""

from __future__ import annotations

import torch


TINY = 1e-6  # least probability of the tokens that a cached teacher left out, in a logarithm


def divergence(logits: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """KL(teacher ‖ student) of each position in nats, shape `(positions,)`.

    Args:
        logits (`torch.Tensor` of shape `(positions, vocabulary)`): the student's; columns beyond the teacher's are
            vocabulary padding, and count as probability lost.
        teacher (`torch.Tensor` of shape `(positions, kept)`): log-probabilities.
    """
    student = logits.float().log_softmax(dim=-1)[:, : teacher.shape[1]]
    return (teacher.exp() * (teacher - student)).sum(dim=-1)


def top_divergence(logits: torch.Tensor, values: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """KL(teacher ‖ student) where only the teacher's likeliest tokens are known, shape `(positions,)`.

    All other tokens count as one. That never exceeds the whole divergence, and equals it if no token is left out.

    Args:
        logits (`torch.Tensor` of shape `(positions, vocabulary)`): the student's.
        values (`torch.Tensor` of shape `(positions, k)`): the teacher's log-probabilities.
        ids (`torch.Tensor` of shape `(positions, k)`): the tokens they belong to.
    """
    logits, values = logits.float(), values.float()
    student = logits.gather(-1, ids.long()) - logits.logsumexp(dim=-1, keepdim=True)
    rest = (1 - values.exp().sum(dim=-1)).clamp_min(0)
    student_rest = (1 - student.exp().sum(dim=-1)).clamp_min(TINY)
    known = (values.exp() * (values - student)).sum(dim=-1)
    return known + torch.where(rest > TINY, rest * (rest.clamp_min(TINY).log() - student_rest.log()), 0.0)
