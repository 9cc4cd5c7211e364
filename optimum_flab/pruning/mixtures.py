"""Files of a size: what the formats of a shape's matrices are predicted to cost, and the shapes worth comparing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import product

from ..export.allocation import Mixture, best_mixture
from ..export.importance import TOKENS
from ..export.quantiser import quantiser_identity
from ..export.rounding import Sensitivities, sensitivities
from ..records.pieces import Pieces
from ..records.work import json_stage
from ..sizes import Shape
from .inputs import PruningInputs
from .resolution import MOST_OF_BODY


STAGE = json_stage("sensitivities", Sensitivities)
VOCABULARIES = (0.5, 0.6, 0.7, 0.85, 1.0, 1.25, 1.5, 2.0)  # compared, as shares of the natural one
WIDTHS = (1.0, 0.9, 0.8, 0.7, 0.6)  # likewise of the dense one, where the body must give something up
DEPTHS = 3  # compared then, the deepest
ENOUGH = 0.05  # nats that rounding may cost before smaller bodies are compared: below that none was ever better


class Mixtures:
    """The formats that lose least within the bytes that are asked for, by shape.

    What rounding costs is measured on the dense model when it is first asked; it is the same whatever the budget, and
    saved for runs with another one.

    Args:
        inputs ([`PruningInputs`]): the dense model and the texts, of a request for a size.
    """

    def __init__(self, inputs: PruningInputs):
        self._inputs = inputs

    @cached_property
    def sensitivities(self) -> Sensitivities:
        """What rounding each matrix of the dense model to each format costs, on its natural vocabulary."""
        inputs, natural = self._inputs, self._inputs.tokens.counted.natural
        data = inputs.request.config.data

        def measure(pieces: Pieces) -> Sensitivities:
            text = inputs.tokens.packed(natural, inputs.texts.calibration, data.sequence_length, TOKENS)
            return sensitivities(inputs.dense, text, natural, data, pieces)

        decided_by = inputs.decided_by(quantiser=quantiser_identity())
        return inputs.run.work.value(STAGE, {**decided_by, "settings": decided_by["settings"]["data"]}, measure)

    def __call__(self, shape: Shape, layers: Sequence[int] | None = None) -> Mixture | None:
        """The formats of a shape; `None` if it has no file as small.

        Args:
            layers (`Sequence[int]`, *optional*): of the dense model that stay. Defaults to the first.
        """
        request = self._inputs.request
        assert request.file_sizes is not None  # a size is asked for
        around, matrices = request.file_sizes.mixed(shape, layers)
        return best_mixture(matrices, self.sensitivities.losses, request.budget - around)

    def rows(self) -> list[list[Shape]]:
        """The shapes to compare, a row for each body: the whole one, unless its rounding costs much."""
        limits = self._inputs.request.limits
        natural, sizes = len(self._inputs.tokens.counted.natural), limits.allowed["vocab"]
        near = {min(sizes, key=lambda size: abs(size - share * natural)) for share in VOCABULARIES}
        vocabularies = sorted(near)
        found = self._row(limits.largest, vocabularies)
        if found and min(loss for _, loss in found) <= ENOUGH:
            return [[shape for shape, _ in found]]
        widths = limits.allowed[limits.inner]
        near = {min(widths, key=lambda size: abs(size - share * widths[-1])) for share in WIDTHS}
        depths = limits.allowed["layer"][: -DEPTHS - 1 : -1]
        bodies = [
            limits.largest.resized(layer=depth, **{limits.inner: width})
            for depth, width in product(depths, sorted(near))
        ]
        within = [one for one in bodies if limits.removed_body(one) <= MOST_OF_BODY] or [limits.largest]
        rows = [[shape for shape, _ in self._row(body, vocabularies)] for body in within]
        if rows := list(filter(None, rows)):
            return rows
        least = limits.smallest["vocab"]
        smallest = [shape for shape, _ in (one for body in bodies for one in self._row(body, [least]))]
        return [[shape] for shape in smallest] or [[limits.smallest]]

    def _row(self, body: Shape, vocabularies: Sequence[int]) -> list[tuple[Shape, float]]:
        shapes = [body.resized(vocab=size) for size in vocabularies]
        return [(shape, found.loss) for shape in shapes if (found := self(shape)) is not None]
