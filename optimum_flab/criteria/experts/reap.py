"""What an expert adds to the tokens that it is sent."""

from ..base import COUNTED, ExpertCriterion


CRITERION = ExpertCriterion(
    name="reap",
    summary="router-weighted expert activation: those experts go that add least to the tokens they are sent",
    source="REAP, Lasby et al., 2025, arXiv 2510.13999",
    formula="mean over the tokens t that are sent to the expert of g(t) |f(t)|, where g is the weight that the"
    " router gives it, f its output before that; 0 where no token is",
    parameters=COUNTED,
    score=lambda use, generator: use.norms / use.tokens.clamp_min(1),
)
