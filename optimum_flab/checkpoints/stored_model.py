"""A model that is found and checked as far as possible without its weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..families import family_for
from ..records.checkpoint import Checkpoint
from ..records.report import REPORT_NAME
from ..tensors.lazy import StoredTensors
from ..utils.errors import FlabError
from ..vocabulary.closure import config_token_ids
from .finding import ModelFiles, find_model
from .hashes import weights_hash
from .loading import LoadedModel, load_dense
from .model_config import read_model_config
from .tokenizer import check_vocabulary, load_tokenizer
from .weight_files import stored_dtype
from .weights import check_weights


if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase


@dataclass(frozen=True)
class StoredModel:
    """A model on disk or on the Hub that is not loaded yet.

    Args:
        files (`ModelFiles`): where it is.
        config (`PreTrainedConfig`): its configuration.
        tokenizer (`PreTrainedTokenizerBase`): its tokenizer, which fits its embeddings.
        trust_remote_code (`bool`): whether code from its repository may run.
    """

    files: ModelFiles
    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase
    trust_remote_code: bool = False

    @property
    def name(self) -> str:
        """What the user called it."""
        return self.files.name

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return self.files.folder

    @property
    def storage_dtype(self) -> torch.dtype:
        """What its weights are stored in, or read as: bfloat16 for GGUF files, and float32 for float64."""
        stored = stored_dtype(self.files, self.config)
        return torch.float32 if stored == torch.float64 else stored

    def load(self, dtype: str | torch.dtype, device: str | torch.device) -> LoadedModel:
        """Loads the weights."""
        return load_dense(
            self.name,
            revision=self.files.revision,
            trust_remote_code=self.trust_remote_code,
            family=self.files.family,
            device=device,
            dtype=dtype,
        )


def check_model(
    model_name_or_path: str | Path,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    family: str | Path | None = None,
) -> StoredModel:
    """Finds a model, reads all but its weights, and checks those by their headers.

    Raises:
        [`FlabError`]: it cannot be found or is refused, its tokenizer does not fit its embeddings, or weight files are
            missing, damaged or of another model.
    """
    files = find_model(model_name_or_path, revision, family)
    config = read_model_config(files, trust_remote_code)
    tokenizer, _ = load_tokenizer(files, config, trust_remote_code)
    check_vocabulary(tokenizer, config, files.name)
    check_weights(files, config)
    return StoredModel(files, config, tokenizer, trust_remote_code)


def check_belongs_together(checkpoint: Checkpoint) -> None:
    """Raises a [`FlabError`] if weights, configuration, tokenizer, plan and report are not of one model."""
    from transformers import GenerationConfig

    folder, report = checkpoint.folder, checkpoint.report
    plan, model = checkpoint.whole_plan, check_model(folder)
    sizes = family_for(model.config, model.files.family).sizes
    faults = [
        f"config.json says {name} {getattr(model.config, name):,}, the plan {plan.sizes[dimension]:,}"
        for dimension, name in sizes.items()
        if plan.sizes.get(dimension, getattr(model.config, name)) != getattr(model.config, name)
    ]
    configs = [GenerationConfig.from_pretrained(folder)] if (folder / "generation_config.json").is_file() else []
    if beyond := [number for number in config_token_ids(model.config, *configs) if number >= plan.vocab_size]:
        faults.append(f"a configuration names token {beyond[0]:,}, and there are {plan.vocab_size:,}")
    if plan.base_hash != report.base_model.weights_sha256:
        faults.append("plan and report belong to different base models")
    if not faults and (weights := weights_hash(StoredTensors(checkpoint.weight_files))) != report.weights_sha256:
        faults.append(
            f"the weights have SHA-256 {weights[:12]}…, but {REPORT_NAME} is of {str(report.weights_sha256)[:12]}…:"
            " they were changed after they were measured"
        )
    if faults:
        raise FlabError(f"the files in {str(folder)!r} do not belong together: {'; '.join(faults)}; prune again")
