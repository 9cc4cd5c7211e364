"""The front door: load, prune, save, push. Orchestration only."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from .checkpoints.loading import (
    DenseModel,
    computation_dtype,
    dense_from_memory,
    dense_hash,
    load_dense,
    shards,
    weights_hash,
)
from .checkpoints.saving import save_checkpoint
from .checkpoints.surgery import check_plan, copy_in, dtypes_of, operate, pruned_tensors
from .checkpoints.tensors import StoredTensors
from .errors import ConfigurationError, FlabError
from .families import save_family
from .hub.selection import is_replaceable
from .hub.terms import CARD_NAME, base_card_of
from .memory import give_back_memory
from .progress import progress, progress_bar
from .pruning.budget import Shape, check_target, shape_of, sizes_of, sizes_of_config
from .pruning.choices import Calibrated, ExpertChoice, LayerChoice, NeuronChoice, TokenChoice, narrowed
from .pruning.depth import Removal
from .pruning.limits import TOLERANCE, asked_shapes, check_sizes, round_up, size_limits
from .pruning.shapes import Candidate, ValidationText, measure_shape, natural_shape, search_shape
from .pruning.width.narrowing import NarrowLayer
from .records.folders import Kind, OutputFolder, nearest_folder
from .records.plan import PLAN_NAME, PruningPlan
from .records.report import build_report, measure_held_out, read_report, report_summary, write_report
from .settings.configuration import FlabPrunerConfig, read_config
from .settings.pruning import DataSettings
from .settings.recovery import RecoverySettings
from .stopwatch import Stopwatch
from .texts.packing import PackedTokens, pack
from .texts.sets import TextSets, build_text_sets
from .texts.sources import Document, hub_datasets
from .vocabulary import (
    balanced_uses,
    changed_texts,
    config_token_ids,
    count_tokens,
    natural_vocabulary,
    read_spec,
    resize,
    rewrite_tokenizer,
    special_ids,
    token_lists,
)


if TYPE_CHECKING:
    from .evaluation.harness import Evaluation
    from .hub.push import Push


CHECKPOINT = Kind("a pruned model", PLAN_NAME, is_replaceable)


@dataclass(frozen=True)
class PrunedModel:
    """What pruning gives.

    Args:
        model (`PreTrainedModel`): of the same stock class as the dense one, on the CPU, in the output dtype.
        tokenizer (`PreTrainedTokenizerBase`): with the kept vocabulary.
        plan ([`PruningPlan`]): what was kept.
        report (`dict`): what was removed and what it cost, as in `flab_report.json`.
        config ([`FlabPrunerConfig`], *optional*): what was asked for; `None` where a plan was applied.
        files (`dict[str, Path]`): files and folders that go beside the weights, by their names there.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    plan: PruningPlan
    report: dict[str, Any]
    config: FlabPrunerConfig | None
    files: dict[str, Path] = field(default_factory=dict)


class FlabOptimizer:
    """Prunes a causal language model.

    ```python
    >>> optimizer = FlabOptimizer.from_pretrained("Qwen/Qwen2.5-Coder-0.5B-Instruct")
    >>> pruned = optimizer.prune(FlabPrunerConfig(target_ratio=0.35))
    >>> optimizer.save_pretrained("out")
    ```

    Args:
        model (`PreTrainedModel`): the dense model. Its weights are not changed; it is put in evaluation mode and its
            parameters stop requiring gradients.
        tokenizer (`PreTrainedTokenizerBase`): its fast tokenizer, which is copied. Refused if transformers makes
            another one of its files.
        output_dtype (`str` or `torch.dtype`, *optional*): dtype of the pruned weights. Defaults to the dense model's
            own.
        family (`str` or `Path`, *optional*): a file that describes the model's family. Defaults to a known family.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        output_dtype: str | torch.dtype | None = None,
        family: str | Path | None = None,
    ):
        self._set_up(dense_from_memory(model, tokenizer, family), output_dtype)

    @classmethod
    def from_pretrained(
        cls,
        model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        trust_remote_code: bool = False,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype = "float32",
        output_dtype: str | torch.dtype | None = None,
        family: str | Path | None = None,
        in_memory: bool = True,
        config: FlabPrunerConfig | None = None,
    ) -> FlabOptimizer:
        """Loads a dense model; see [`~optimum_flab.checkpoints.loading.load_dense`] for the arguments and errors.

        Args:
            dtype (`str` or `torch.dtype`): what to compute in; statistics are accumulated in float32 all the same.
            output_dtype (`str` or `torch.dtype`, *optional*): dtype of the pruned weights. Defaults to the dense
                model's own.
            family (`str` or `Path`, *optional*): a file that describes the model's family, see `docs/families.md`.
                Defaults to one of the known families.
            in_memory (`bool`): where false, the weights stay in their files if that is possible; enough for [`apply`]
                and [`save_pretrained`], which then need a few times the memory of the largest tensor.
            config ([`FlabPrunerConfig`], *optional*): what will be asked for; sizes and a target that this model
                cannot meet are refused before its weights are downloaded or read.
        """
        if output_dtype is not None:
            output_dtype = computation_dtype(output_dtype)
        optimizer = cls.__new__(cls)
        dense = load_dense(
            model_name_or_path,
            revision=revision,
            trust_remote_code=trust_remote_code,
            device=device,
            dtype=dtype,
            family=family,
            in_memory=in_memory,
            check=lambda *model: None if config is None else check_sizes(config, sizes_of_config(*model)),
        )
        optimizer._set_up(dense, output_dtype)
        return optimizer

    def _set_up(self, dense: DenseModel, output_dtype: str | torch.dtype | None) -> None:
        self.dense = dense
        self.family = dense.family
        self.output_dtype = dense.storage_dtype if output_dtype is None else computation_dtype(output_dtype)
        self.pruned: PrunedModel | None = None

    # --- pruning ---------------------------------------------------------------------------------------------------

    def prune(self, config: FlabPrunerConfig) -> PrunedModel:
        """Searches what to keep, and prunes.

        The depth search runs on a subset of the calibration set (`layers.search_tokens`, 1,024 tokens), the comparison
        of widths on half of it; the shape that is chosen is decided on all of it.

        Args:
            config ([`FlabPrunerConfig`]): what is asked for. Without a target or sizes only the vocabulary is pruned,
                to its natural size.

        Returns:
            [`PrunedModel`]: also kept as `self.pruned`.

        Raises:
            [`FlabError`]: the text is too little, the target out of reach, or the model gives NaN.
        """
        config.validate()
        self._needs_weights()
        model, family, watch = self.dense.model, self.family, Stopwatch()
        sizes = sizes_of(model, family)
        dense = sizes.shape
        check_sizes(config, sizes)
        limits = size_limits(config, sizes, len(self.dense.tokenizer))

        with watch.step("texts"):
            texts = build_text_sets(config.data, self._count_tokens, config.seed)
        with watch.step("vocabulary"):
            tokens = self._token_choice(config, texts)
            kept = tokens.natural
            tokenizer = self._tokenizer_for(kept)
            calibration = self._packed(tokenizer, kept, texts.calibration, config.data, config.data.calibration_tokens)
        multiple = config.vocabulary.pad_to_multiple_of or 1
        natural = round_up(len(kept), multiple)
        if natural > dense["vocab"]:
            raise ConfigurationError(
                f"vocabulary.pad_to_multiple_of: the {len(kept):,} tokens that stay would be padded to {natural:,} "
                f"rows, more than the {dense['vocab']:,} of the dense model; take a smaller multiple"
            )
        if config.vocabulary.size is None and config.vocabulary.enabled:
            least = natural if config.vocabulary.keep_used else tokens.smallest
            limits = limits.at_least("vocab", round_up(least, multiple))
        if config.target_ratio is not None:
            check_target(sizes.counts, dense, limits, config.target_ratio, TOLERANCE)

        on = Calibrated(model, family, config, calibration)
        layers, experts = LayerChoice(on, kept), ExpertChoice(on)
        rows = asked_shapes(config, sizes, limits, natural)
        shape, candidates = natural_shape(rows[0], natural), []
        if len(rows) > 1 or len(rows[0]) > 1:
            with watch.step("shape search"):
                candidates = self._searched(on, rows, shape, texts, tokens, layers, experts)
            shape = min(candidates, key=lambda candidate: candidate.bits_per_byte).shape
            give_back_memory()  # what was surveyed, for every width

        with watch.step("vocabulary"):
            kept = tokens(min(shape["vocab"], limits.largest["vocab"]))
            if len(kept) != len(tokens.natural):
                tokenizer = self._tokenizer_for(kept)
                calibration = self._packed(
                    tokenizer, kept, texts.calibration, config.data, config.data.calibration_tokens
                )
        with watch.step("layers"):
            kept_layers, removed = layers(shape["layer"]), layers.removed(shape["layer"])
        kept_experts = {}
        if config.experts.enabled:
            with watch.step("experts"):
                chosen = experts(shape["expert"])
                kept_experts = {layer: chosen[layer] for layer in kept_layers if layer in chosen}
        with watch.step("ffn"):
            neurons = narrowed(replace(on, tokens=calibration), shape["neuron"], kept_layers, kept_experts)
        kept_tokens = kept if config.vocabulary.enabled else None
        plan = self._plan(config, texts, shape, kept_tokens, kept_layers, kept_experts, neurons)
        natural = len(tokens.natural)
        # a vocabulary knows the merges of its tokenizer, hundreds of megabytes for the largest
        del calibration, on, neurons, tokens, layers, experts
        give_back_memory()
        pruned = self._apply(plan, tokenizer, texts, config, watch)
        pruned.report.update(search_section(candidates, removed, natural, shape, texts))
        pruned.report["datasets"] = hub_datasets(config.data.sources)
        pruned.report["texts"]["corpus_cut_differently"] = self._corpus_cut_differently(config, texts, natural, kept)
        return pruned

    def _corpus_cut_differently(
        self, config: FlabPrunerConfig, texts: TextSets, natural: int, kept: np.ndarray
    ) -> int:
        if config.vocabulary.min_count == 1 and len(kept) >= natural:
            return 0  # by construction, see vocabulary.closure
        corpus = [document.text for document in texts.corpus]
        return changed_texts(self.dense.tokenizer, self.pruned.tokenizer, kept, corpus)

    def apply(self, plan: PruningPlan) -> PrunedModel:
        """Applies a plan without any search; the same dense weights give the same bytes.

        Raises:
            [`FlabError`]: the plan was made for other weights.
        """
        check_plan(self.dense.model, self.family, plan)
        found = dense_hash(self.dense)
        if plan.base_hash != found:
            raise FlabError(
                f"the plan was made for {plan.base_model!r} with weights {plan.base_hash[:12]}…, this model's are "
                f"{found[:12]}…; give the model that the plan names and the --dtype that it was made with, or prune"
                " this one without --plan"
            )
        tokenizer = (
            self.dense.tokenizer if plan.kept_tokens is None else self._tokenizer_for(np.array(plan.kept_tokens))
        )
        return self._apply(plan, tokenizer, None, None, Stopwatch())

    def _apply(
        self,
        plan: PruningPlan,
        tokenizer: PreTrainedTokenizerBase,
        texts: TextSets | None,
        config: FlabPrunerConfig | None,
        watch: Stopwatch,
    ) -> PrunedModel:
        held_out = None
        with watch.step("surgery"):
            model = operate(self.dense.model, self.family, plan)
        if texts is not None:
            with watch.step("held-out measurement"):
                held_out = measure_held_out(
                    self.dense.model,
                    self.dense.tokenizer,
                    model,
                    tokenizer,
                    self.family,
                    plan.kept_tokens,
                    [document.text for document in texts.held_out],
                    config.data,
                )
        report = build_report(self.dense, self.family, model, plan, held_out, watch.seconds)
        report["base_model"]["card"] = base_card_of(self.dense.folder)
        self.pruned = PrunedModel(model, tokenizer, plan, report, config)
        return self.pruned

    # --- the steps -------------------------------------------------------------------------------------------------

    def _count_tokens(self, texts: list[str]) -> list[int]:
        return [len(ids) for ids in token_lists(self.dense.tokenizer, texts)]

    def _token_choice(self, config: FlabPrunerConfig, texts: TextSets) -> TokenChoice:
        if not config.vocabulary.enabled:
            rows = np.arange(shape_of(self.dense.model, self.family)["vocab"])
            return TokenChoice(rows, len(rows), lambda size: rows)
        settings, model = config.vocabulary, self.dense.model
        spec = read_spec(self.dense.tokenizer)
        if settings.size is not None and settings.size > len(self.dense.tokenizer):
            raise ConfigurationError(
                f"vocabulary.size: {settings.size:,} is more than the {len(self.dense.tokenizer):,} tokens there are"
            )
        required = config_token_ids(model.config, model.generation_config)
        arguments = (settings.min_count, settings.keep_merges, settings.keep_tokens, required)
        # unknown tokens, and a size below what must stay, are refused before counting
        least = natural_vocabulary(spec, np.zeros(0, dtype=np.int64), *arguments)
        if settings.size is not None and settings.size < len(least.protected):
            resize(spec, least, np.zeros(0), settings.size)
        sources: dict[str, list[str]] = {}
        for document in texts.corpus:
            sources.setdefault(document.source, []).append(document.text)
        size = sum(len(document.text.encode("utf-8")) for document in texts.corpus)
        counts = []
        with progress_bar("Counting tokens", size, "B", unit_scale=True) as bar:
            for part in sources.values():
                before = bar.n
                usage = count_tokens(
                    self.dense.tokenizer, part, lambda done, before=before: bar.update(before + done - bar.n)
                )
                counts.append(usage.counts)
        vocabulary = natural_vocabulary(spec, sum(counts), *arguments)
        uses = balanced_uses(counts)
        return TokenChoice(
            vocabulary.kept, len(vocabulary.protected), lambda size: resize(spec, vocabulary, uses, size)
        )

    def _tokenizer_for(self, kept: np.ndarray) -> PreTrainedTokenizerBase:
        if len(kept) >= len(self.dense.tokenizer) and np.array_equal(kept, np.arange(len(kept))):
            return self.dense.tokenizer
        return rewrite_tokenizer(self.dense.tokenizer, kept, self.dense.model.config.model_type)

    def _packed(
        self,
        tokenizer: PreTrainedTokenizerBase,
        kept: np.ndarray,
        documents: list[Document],
        data: DataSettings,
        most_tokens: int | None,
    ) -> PackedTokens:
        """Documents in the pruned tokenizer's pieces, as dense ids."""
        pieces = [kept[ids] for ids in token_lists(tokenizer, [document.text for document in documents])]
        before, after = (kept[ids] for ids in special_ids(tokenizer))
        return pack(pieces, data.sequence_length, int(kept[0]), most_tokens, (before, after))

    def _searched(
        self,
        on: Calibrated,
        rows: list[list[Shape]],
        first: Shape,
        texts: TextSets,
        tokens: TokenChoice,
        layers: LayerChoice,
        experts: ExpertChoice,
    ) -> list[Candidate]:
        widths = {shape["neuron"] for row in rows for shape in row} - {shape_of(on.model, on.family)["neuron"]}
        neurons = NeuronChoice(on, sorted(widths))
        with progress("Measuring shapes", None, "shape") as tick:

            def measure(shape: Shape) -> Candidate:
                removed = [removal.layer for removal in layers.removed(shape["layer"])]
                text = self._validation_text(on.config, texts, tokens, shape["vocab"])
                kept, narrow = experts(shape.get("expert")), neurons(shape["neuron"])
                batch_size = on.config.data.batch_size
                candidate = measure_shape(on.model, on.family, shape, removed, narrow, text, batch_size, kept)
                tick()
                return candidate

            return search_shape(rows, first, measure)

    def _validation_text(
        self, config: FlabPrunerConfig, texts: TextSets, tokens: TokenChoice, size: int
    ) -> ValidationText:
        kept = tokens(size)
        packed = self._packed(self._tokenizer_for(kept), kept, texts.validation, config.data, None)
        return ValidationText(
            kept.tolist(), packed, sum(len(document.text.encode("utf-8")) for document in texts.validation)
        )

    def _plan(
        self,
        config: FlabPrunerConfig,
        texts: TextSets,
        shape: Shape,
        kept_tokens: np.ndarray | None,
        kept_layers: list[int],
        kept_experts: dict[int, torch.Tensor],
        narrowed: dict[int, NarrowLayer],
    ) -> PruningPlan:
        return PruningPlan(
            base_model=self.dense.name,
            base_revision=self.dense.revision,
            base_hash=dense_hash(self.dense),
            corpus_hash=texts.corpus_hash,
            kept_tokens=None if kept_tokens is None else kept_tokens.tolist(),
            vocab_size=shape["vocab"],
            kept_layers=kept_layers,
            kept_experts={index: kept.tolist() for index, kept in kept_experts.items()},
            kept_neurons={index: layer.kept.tolist() for index, layer in narrowed.items()},
            dtype=str(self.output_dtype).removeprefix("torch."),
            settings=config.to_dict(),
            weights={
                self.family.in_layer(index, self.family.ffn_out_name): self.family.stored_out(
                    layer.weight.to("cpu", self.output_dtype)
                )
                for index, layer in narrowed.items()
                if layer.weight is not None
            },
        )

    # --- results ---------------------------------------------------------------------------------------------------

    @staticmethod
    def output(
        folder: str | Path, *, overwrite: bool = False, inputs: Iterable[str | Path | None] = ()
    ) -> OutputFolder:
        """Reserves the folder of a checkpoint before any long work, for [`save_to`].

        ```python
        >>> with FlabOptimizer.output("out", inputs=["model"]) as output:
        ...     optimizer = FlabOptimizer.from_pretrained("model")
        ...     optimizer.prune(FlabPrunerConfig(target_ratio=0.35))
        ...     optimizer.save_to(output)
        ```

        The arguments and errors are those of [`~records.folders.OutputFolder`].
        """
        return OutputFolder(folder, CHECKPOINT, overwrite=overwrite, inputs=inputs)

    def check_space(self, folder: str | Path, config: FlabPrunerConfig) -> None:
        """Raises a [`FlabError`] if the weights would not fit on the disk of `folder`; called before any long work."""
        parameters = sum(p.numel() for p in self.dense.model.parameters())
        # without a target the sizes are not known yet
        parameters = round(parameters * (1 - config.target_ratio - TOLERANCE)) if config.target_ratio else 0
        free, needed = shutil.disk_usage(nearest_folder(folder)).free, parameters * self.output_dtype.itemsize
        if free < needed:
            raise FlabError(
                f"the pruned weights take {needed / 1e6:,.0f} MB, and the disk of {folder} has {free / 1e6:,.0f} MB "
                "free; free some space or name another folder"
            )

    def save_pretrained(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Writes the stock checkpoint, plan, report, configuration, card and licence files.

        All of it or nothing, see [`~records.folders.OutputFolder`].

        Args:
            folder (`str` or `Path`): made where it is missing.
            overwrite (`bool`): whether a pruned model that is there may be replaced.

        Raises:
            [`FlabError`]: nothing was pruned yet, the folder is not empty and `overwrite` is false or holds something
                else, or the disk is full.
            [`ConfigurationError`]: the folder is or holds the dense model.
        """
        self._result()
        with self.output(folder, overwrite=overwrite, inputs=[self.dense.folder]) as output:
            self.save_to(output)

    def save_to(self, output: OutputFolder) -> None:
        """[`save_pretrained`] to a folder that was reserved by [`output`]."""
        from .hub.card import read_card, write_card

        pruned = self._result()
        earlier = read_card(output.folder / CARD_NAME)
        with output.written() as partial:
            self._save_weights(pruned, partial)
            pruned.plan.save(partial)
            save_family(self.family, partial)
            if pruned.config is not None:
                pruned.config.save_pretrained(partial)
            for file in self.dense.license_files:
                shutil.copyfile(file, partial / file.name)
            for name, path in pruned.files.items():
                (shutil.copytree if path.is_dir() else shutil.copyfile)(path, partial / name)
            write_report(partial, pruned.report)
            write_card(partial, earlier=earlier)

    def _save_weights(self, pruned: PrunedModel, folder: Path) -> None:
        if pruned.model.device.type != "meta":
            save_checkpoint(pruned.model, pruned.tokenizer, folder, self.family)
            return
        stored = self.dense.stored
        give_back_memory()  # what reading the tokenizer took
        # a bar keeps what it is at: the name, and not the tensor
        names = progress_bar("Cutting tensors", len(stored), "tensor", iterable=stored)
        dense = ((name, stored[name]) for name in names)
        tensors = pruned_tensors(dense, self.family, pruned.plan, dtypes_of(pruned.model))
        save_checkpoint(pruned.model, pruned.tokenizer, folder, self.family, tensors)
        pruned.report["weights_sha256"] = weights_hash(StoredTensors(shards(folder)))

    def push_to_hub(self, repo_id: str, **options: Any) -> Push:
        """Pushes what was pruned to the Hub; where nothing was, the pruned checkpoint that was loaded from a folder or
        the Hub.

        ```python
        >>> FlabOptimizer.from_pretrained("out").push_to_hub("me/my-model-flab", private=True).url
        >>> FlabOptimizer.from_pretrained("me/my-model-flab").push_to_hub("my-team/model-flab").url
        ```

        Args:
            repo_id (`str`): the repository, made if it is missing.
            options: the other arguments of [`~optimum_flab.hub.push.push_to_hub`].

        Raises:
            [`FlabError`]: nothing was pruned, or the model in memory is not the one in its folder.
        """
        from tempfile import TemporaryDirectory

        from .hub.push import push_to_hub

        if self.pruned is None and self.dense.folder is not None and (self.dense.folder / PLAN_NAME).is_file():
            if dense_hash(self.dense) != read_report(self.dense.folder).get("weights_sha256"):
                raise FlabError(
                    f"the weights in memory are not those that {self.dense.folder} was written with; save them to a"
                    " folder of their own"
                )
            return push_to_hub(self.dense.folder, repo_id, **options)
        with TemporaryDirectory() as temporary:
            self.save_pretrained(Path(temporary, "checkpoint"))
            return push_to_hub(Path(temporary, "checkpoint"), repo_id, **options)

    # --- recovery --------------------------------------------------------------------------------------------------

    def load_pruned(self, folder: str | Path) -> PrunedModel:
        """Takes a checkpoint that was pruned from this dense model, to recover or to evaluate it.

        Args:
            folder (`str` or `Path`): what [`save_pretrained`] wrote.

        Returns:
            [`PrunedModel`]: also kept as `self.pruned`.

        Raises:
            [`FlabError`]: the folder holds no pruned checkpoint, or one of another model.
        """
        plan = PruningPlan.load(folder)
        check_plan(self.dense.model, self.family, plan)
        loaded = load_dense(folder, device="cpu", dtype=plan.dtype)
        self.pruned = PrunedModel(loaded.model, loaded.tokenizer, plan, read_report(folder), read_config(folder))
        return self.pruned

    def recover(
        self,
        config: RecoverySettings | None = None,
        *,
        confirm_run_unsafe_code: bool = False,
        cache_dir: str | Path | None = None,
        release_dense: bool = False,
    ) -> PrunedModel:
        """Trains the pruned model back towards the dense one.

        ```python
        >>> optimizer.load_pruned("out")
        >>> optimizer.recover(RecoveryConfig(data="problems.jsonl"), confirm_run_unsafe_code=True)
        >>> optimizer.save_pretrained("recovered")
        ```

        Args:
            config ([`~recovery.RecoveryConfig`], *optional*): what is trained on, and how. Defaults to the `recovery`
                section of the configuration that the model was pruned with.

        The other arguments, and the errors, are those of [`~recovery.pipeline.recover`].

        Returns:
            [`PrunedModel`]: the recovered one, also kept as `self.pruned`; same configuration, tokenizer and plan.
        """
        from .recovery.pipeline import Work, recover

        self._needs_weights()
        pruned = self._result()
        if pruned.report.get("recovery"):
            raise ConfigurationError(
                "this model was recovered already; give the pruned model as it was before, which the training starts "
                "from (with other data or settings, it starts anew)"
            )
        settings = config or (pruned.config.recovery if pruned.config is not None else RecoverySettings())
        found = recover(
            Work(self.dense, pruned.model, pruned.tokenizer, pruned.plan, self.family),
            settings,
            confirm_run_unsafe_code=confirm_run_unsafe_code,
            cache_dir=cache_dir,
            release_dense=release_dense,
        )
        report = {
            **pruned.report,
            "weights_sha256": weights_hash(found.model),
            "held_out": found.held_out,
            "recovery": found.section,
        }
        self.pruned = replace(pruned, model=found.model, report=report, files={**pruned.files, **found.files})
        return self.pruned

    def summary(self) -> str:
        """What was removed and what it cost, for the terminal."""
        return report_summary(self._result().report)

    @torch.no_grad()
    def complete(self, prompt: str, max_new_tokens: int = 64) -> dict[str, str]:
        """Greedy completions of a prompt by the dense and the pruned model, under the keys `"dense"` and `"pruned"`.

        Args:
            prompt (`str`): text to go on from, as it is.
            max_new_tokens (`int`, defaults to 64): most tokens to write.
        """
        self._needs_weights()
        pruned = self._result()
        sides = {"dense": (self.dense.model, self.dense.tokenizer), "pruned": (pruned.model, pruned.tokenizer)}
        texts = {}
        for name, (model, tokenizer) in sides.items():
            inputs = tokenizer(prompt, return_tensors="pt").to(model.device)
            own = model.generation_config
            # what a call leaves open is taken from the model's own settings, a repetition penalty for example
            model.generation_config = GenerationConfig(
                max_new_tokens=max_new_tokens, eos_token_id=own.eos_token_id, pad_token_id=tokenizer.pad_token_id
            )
            try:
                output = model.generate(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
            finally:
                model.generation_config = own
            texts[name] = tokenizer.decode(output[0], skip_special_tokens=True)
        return texts

    def evaluate(self, tasks: Sequence[str], **options: Any) -> Evaluation:
        """Evaluates the dense model, and the pruned one, if there is one, against it.

        ```python
        >>> print(optimizer.evaluate(["humaneval"], confirm_run_unsafe_code=True).to_text())
        ```

        Args:
            tasks (`Sequence[str]`): names of tasks.
            options: the other arguments of [`~optimum_flab.evaluation.harness.evaluate`] but `baseline`; both models
                are computed on the dense one's device and in its dtype (`from_pretrained` loads it in float32, while
                the command line evaluates in the dtype of the weights).
        """
        self._needs_weights()
        if "baseline" in options:
            raise ConfigurationError("baseline: it is the dense model of this optimizer; call evaluate() for another")
        from .evaluation.harness import evaluate

        if self.pruned is None:
            return evaluate(self.dense, tasks=tasks, **options)
        model = copy_in(self.pruned.model, self.dense.model.device, self.dense.model.dtype)
        model.generation_config = self.pruned.model.generation_config
        pruned = DenseModel(
            model=model,
            tokenizer=self.pruned.tokenizer,
            family=self.family,
            name=f"{self.dense.name} (pruned)",
            storage_dtype=self.pruned.model.dtype,
        )
        return evaluate(pruned, baseline=self.dense, tasks=tasks, **options)

    def _needs_weights(self) -> None:
        if self.dense.stored is not None:
            raise ConfigurationError(
                "in_memory: the weights of the dense model are in their files, which is enough to apply a plan and to"
                " save; load it with in_memory=True for everything else"
            )

    def _result(self) -> PrunedModel:
        if self.pruned is None:
            raise FlabError("nothing is pruned yet; call prune() or apply() first")
        return self.pruned


def search_section(
    candidates: list[Candidate], removed: list[Removal], natural: int, shape: Shape, texts: TextSets
) -> dict[str, Any]:
    """What the search saw, for the report."""
    return {
        "search": {
            "candidates": [
                {
                    **candidate.shape.reported(),
                    "validation_divergence": candidate.divergence,
                    "validation_bits_per_byte": candidate.bits_per_byte,
                    "chosen": candidate.shape == shape,
                }
                for candidate in candidates
            ],
            "removed_layers": [{"layer": removal.layer, "score": removal.score} for removal in removed],
            "natural_vocab_size": natural,
        },
        "texts": {
            "corpus": len(texts.corpus),
            "calibration": len(texts.calibration),
            "validation": len(texts.validation),
            "held_out": len(texts.held_out),
            "set_aside": texts.set_aside,
            "skipped_files": texts.skipped_files,
        },
    }
