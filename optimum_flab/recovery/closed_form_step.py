"""The closed form as a step of a recovery: refit, apply as much of the update as helps, save the result by content."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from ..measuring.divergence import OutputHead, final_hidden, mean_divergence
from ..records.atomic import write_atomically
from ..records.report import ClosedForm
from ..running.casting import copy_in, on_device
from ..running.layer_pass import LayerPass
from ..texts.packing import PackedTokens
from .closed_form import between, refit, tokens_to_refit
from .data import Data
from .work import MEASURED_AT_ONCE, Work


REFIT_SHARES = (1.0, 0.5, 0.25)  # of the update of the closed form


@torch.no_grad()
def closed_form_step(
    work: Work, dense: PreTrainedModel, data: Data, folder: Path, give_up_dense: Callable[[], None]
) -> tuple[PreTrainedModel, ClosedForm]:
    """The refitted model if it is closer to the dense one on the rows set aside, else the model as it was.

    `give_up_dense` is called once the dense model's weights are no longer read here.
    """
    kept, file = work.plan.kept_tokens, folder / "closed_form.safetensors"
    ids = torch.arange(work.plan.vocab_size) if kept is None else torch.as_tensor(kept)

    def as_dense(tokens: PackedTokens) -> PackedTokens:
        return PackedTokens(ids[tokens.input_ids], tokens.position_ids, tokens.mask)

    def beginning() -> PreTrainedModel:
        model = copy_in(work.model, torch.device("cpu"), work.model.dtype)
        model.generation_config = work.model.generation_config
        return model

    if file.is_file():
        with safe_open(file, "pt") as opened:
            section = ClosedForm.model_validate_json(opened.metadata()["section"])
        if not section.kept:
            return work.model, section
        best = beginning()
        best.load_state_dict(load_file(file), strict=False)
        best.tie_weights()
        return best, section
    computing = copy_in(work.model, dense.device, work.dtype)
    needed = tokens_to_refit(work.model, work.family)
    most = work.settings.closed_form_tokens or max(needed.values(), default=0)
    # the first rows with as many tokens; what fills them up does not count
    rows = 1 + int((data.rows.tokens.mask.sum(dim=1).cumsum(dim=0) < most).sum())
    tokens = next(data.rows.tokens.batches(rows))
    work.steps.say(f"refitting in closed form on {tokens.tokens:,} tokens")
    dense_pass = LayerPass(dense, work.family, as_dense(tokens), MEASURED_AT_ONCE)
    left = refit(dense_pass, LayerPass(computing, work.family, tokens, MEASURED_AT_ONCE), work.plan.kept_layers)
    note = (
        f"{' and '.join(sorted(left))} left as before, at least in some layers: a refit takes"
        f" {max(needed[name] for name in left):,} tokens, and {tokens.tokens:,} were read; raise"
        " `recovery.closed_form_tokens`, or train on more text"
        if left
        else None
    )
    measure = _validation_divergence(work, dense, data.validation.tokens, as_dense)
    give_up_dense()
    best = beginning()
    divergences = {0.0: measure(work.model)}
    for share in REFIT_SHARES:
        between(work.model, computing, share, best)
        divergences[share] = measure(best)
    share = min(divergences, key=divergences.__getitem__)
    between(work.model, computing, share, best)
    section = ClosedForm(before=divergences[0.0], after=divergences[share], share=share, kept=share > 0, note=note)
    weights = {name: p.detach().contiguous() for name, p in best.named_parameters()} if section.kept else {}
    metadata = {"section": section.model_dump_json()}
    write_atomically(file, lambda partial: save_file(weights, partial, metadata=metadata))
    work.steps.say(
        f"closed form: divergence {section.before:.4f} -> {section.after:.4f} on the sequences set aside, "
        + (f"applying {share:.0%} of the update" if section.kept else "so it is not applied")
    )
    return (best if section.kept else work.model), section


def _validation_divergence(
    work: Work,
    dense: PreTrainedModel,
    tokens: PackedTokens,
    as_dense: Callable[[PackedTokens], PackedTokens],
) -> Callable[[PreTrainedModel], float]:
    """A model's divergence on the sequences set aside."""
    family, kept = work.family, work.plan.kept_tokens
    device, rows = dense.device, range(work.plan.vocab_size if kept is None else len(kept))
    hidden = final_hidden(LayerPass(dense, family, as_dense(tokens), MEASURED_AT_ONCE))
    head = OutputHead(dense, family, list(rows) if kept is None else kept)

    def measure(model: PreTrainedModel) -> float:
        measured = on_device(model, device, work.dtype)
        own = final_hidden(LayerPass(measured, family, tokens, MEASURED_AT_ONCE))
        return mean_divergence(hidden, own, head, OutputHead(measured, family, rows))

    return measure
