"""How many tokens are routed to an expert."""

from ..base import COUNTED, ExpertCriterion


CRITERION = ExpertCriterion(
    name="frequency",
    summary="removes the experts to which the fewest tokens are routed",
    source="none: the plainest use of a router",
    formula="number of tokens routed to the expert",
    parameters=COUNTED,
    score=lambda use, generator: use.tokens,
)
