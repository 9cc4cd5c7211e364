"""The main entry point: load, prune, save, push. Orchestration only."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .checkpoints.computation import computation_device, computation_dtype
from .checkpoints.loading import LoadedModel, dense_from_memory, load_dense
from .pruned import (
    COMPLETION_TOKENS,
    as_loaded_model,
    check_as_written,
    completions,
    in_place_of_dense,
    output_folder,
    read_pruned,
    write_pruned,
)
from .pruning.limits import least_parameters
from .pruning.memory_budget import bytes_of
from .pruning.resolution import PendingRequest, resolve
from .pruning.result import PrunedModel
from .pruning.run import apply_plan, prune, pruning_run
from .pruning.time_budget import seconds_of
from .records.checkpoint import Checkpoint
from .records.folders import OutputFolder, check_space
from .records.plan import PLAN_NAME, PruningPlan
from .records.summary import report_summary
from .running.processes import Processes
from .settings.configuration import FlabPrunerConfig
from .settings.recovery import RecoveryConfig
from .sizes import count_parameters, shape_of
from .texts.sources import read_sources
from .utils.errors import ConfigurationError, FlabError


if TYPE_CHECKING:
    from .evaluation.results import Evaluation
    from .export import Exported
    from .hub.push import Push
    from .records.trim import TrimReport
    from .settings.evaluation import EvaluationSettings
    from .settings.export import ExportSettings


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
        tokenizer (`PreTrainedTokenizerBase`): its fast one; refused if transformers loads another from its files.
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
        dtype: str | torch.dtype = "auto",
        output_dtype: str | torch.dtype | None = None,
        in_memory: bool | None = True,
        memory_budget: str | float | None = None,
        config: FlabPrunerConfig | None = None,
        **options: Any,
    ) -> FlabOptimizer:
        """Loads a dense model; see [`~optimum_flab.checkpoints.loading.load_dense`] for errors.

        Args:
            dtype (`str` or `torch.dtype`): what to compute in; statistics are accumulated in float32 regardless.
            output_dtype: see [`FlabOptimizer`].
            in_memory (`bool`, *optional*): where false, the weights stay in their files if that is possible; enough
                for [`prune`], [`apply`] and [`save_pretrained`], which then need little more memory than one layer
                takes. `None`: they do if the device has too little free memory for them.
            memory_budget (`str` or `float`, *optional*): the memory of the device that [`prune`] may take, in bytes or
                as in `"6GB"`; the weights stay in their files where they would take more.
            config ([`FlabPrunerConfig`], *optional*): what will be requested; sizes and a target that this model
                cannot meet, and counts of another, are refused before its weights are downloaded or read.
            options: `revision`, `trust_remote_code`, `device`, `family`, `attn_implementation`, `token`, `cache_dir`
                as of `load_dense`; others are refused by name.
        """
        output_dtype = None if output_dtype is None else computation_dtype(output_dtype)
        memory, name = None if memory_budget is None else bytes_of(memory_budget), str(model_name_or_path)
        pending = PendingRequest(config or FlabPrunerConfig(), name, output_dtype, memory)
        read_sources([] if config is None else config.data.sources)
        optimizer = cls.__new__(cls)
        dense = load_dense(
            model_name_or_path,
            dtype=dtype,
            in_memory=pending.fits if in_memory is None or (in_memory and memory is not None) else in_memory,
            check=lambda *model: None if config is None else pending.check(*model),
            **options,
        )
        optimizer._set_up(dense, output_dtype, memory)
        return optimizer

    def _set_up(self, dense: LoadedModel, output_dtype: str | torch.dtype | None, memory: int | None = None) -> None:
        self.dense = dense
        self.family = dense.family
        self._memory = memory
        self.output_dtype = dense.storage_dtype if output_dtype is None else computation_dtype(output_dtype)
        self.pruned: PrunedModel | None = None

    @property
    def model(self) -> PreTrainedModel:
        """The pruned model; before there is one, the dense one."""
        return (self.pruned or self.dense).model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """That of [`model`]."""
        return (self.pruned or self.dense).tokenizer

    def prune(
        self,
        config: FlabPrunerConfig,
        *,
        save_directory: str | Path | None = None,
        overwrite: bool = False,
        resume: bool = True,
        cache_dir: str | Path | None = None,
        time_budget: str | float | None = None,
        processes: Processes | None = None,
    ) -> PrunedModel:
        """Searches for what to keep, and prunes.

        Finished work is saved by content: an interrupted run resumes where it stopped, and produces the same bytes.

        Args:
            config ([`FlabPrunerConfig`]): what is requested. Without a target or sizes only the vocabulary is pruned,
                to its natural size.
            save_directory, overwrite: of [`save_pretrained`], if it is to be saved too; refused before the work.
            resume (`bool`): whether saved work may be used; otherwise everything starts over.
            cache_dir (`str` or `Path`, *optional*): where work is saved. Defaults to `optimum_flab/pruning` in the
                folder of the Hugging Face cache (`HF_HOME`).
            time_budget (`str` or `float`, *optional*): about how long it may take, in seconds or as in `"30min"`: less
                calibration text is read where all of it would take longer.
            processes ([`~running.processes.Processes`], *optional*): those of `torchrun` or `accelerate launch` that
                share the pruning, all of which call this; the model is on the device of each. Defaults to this one.

        Raises:
            [`FlabError`]: there is too little text, the target is out of reach, or the model produces NaN.
        """
        config.validate()
        computation_device(self.dense.device, exact=True)
        if save_directory is not None:
            if processes is not None:
                raise ConfigurationError("save_directory: of several processes the main one calls `save_pretrained`")
            with self.output(save_directory, overwrite=overwrite, inputs=[self.dense.folder]) as output:
                self.check_space(save_directory, config)
                self.prune(config, resume=resume, cache_dir=cache_dir, time_budget=time_budget)
                self.save_to(output)
            return self._result()
        seconds, dense = seconds_of(time_budget), self.dense
        request = resolve(config, dense.model, dense.family, dense.tokenizer, dense.name, self.output_dtype)
        run = pruning_run(dense, cache_dir, resume, processes, self._memory)
        self.pruned = prune(dense, request, run, seconds)
        return self.pruned

    def prune_and_recover(
        self,
        config: FlabPrunerConfig,
        *,
        resume: bool = True,
        cache_dir: str | Path | None = None,
        confirm_run_unsafe_code: bool = False,
    ) -> PrunedModel:
        """[`prune`], then [`recover`], which saves in `cache_dir/recovery`; refusals come first."""
        from .recovery.checks import check_inputs, check_settings

        config.validate()
        self.dense.check_in_memory()
        check_settings(self.dense, config.recovery, confirm_run_unsafe_code)
        check_inputs(config.recovery, confirm_run_unsafe_code)
        self.prune(config, resume=resume, cache_dir=cache_dir)
        folder = cache_dir and Path(cache_dir, "recovery")
        return self.recover(cache_dir=folder, confirm_run_unsafe_code=confirm_run_unsafe_code)

    def apply(self, plan: PruningPlan) -> PrunedModel:
        """Applies a plan without any search; the same dense weights produce the same bytes.

        Raises:
            [`FlabError`]: the plan was made for other weights.
        """
        self.pruned = apply_plan(self.dense, plan)
        return self.pruned

    @staticmethod
    def trim(model_name_or_path: str | Path, output: str | Path, **options: Any) -> TrimReport:
        """Takes rarely used tokens out of a model's files as they are; see [`~trim.run.trim`] for `options`."""
        from .trim.run import trim

        return trim(model_name_or_path, output, **options)

    output = staticmethod(output_folder)

    def check_space(self, folder: str | Path, config: FlabPrunerConfig) -> None:
        """Raises a [`FlabError`] if the weights would not fit on the disk of `folder`; called before any long work."""
        model, family = self.dense.model, self.dense.family
        least = least_parameters(count_parameters(model, family), shape_of(model, family), config)
        check_space(folder, least * self.output_dtype.itemsize, "the pruned weights take")

    def save_pretrained(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Writes the stock checkpoint, plan, report, configuration, card and licence files.

        All or nothing, see [`~records.folders.OutputFolder`].

        Args:
            folder (`str` or `Path`): created if it does not exist.
            overwrite (`bool`): whether a pruned model that is there may be replaced.

        Raises:
            [`FlabError`]: nothing was pruned yet, the folder is not empty and `overwrite` is false or it holds
                something else, or the disk is full.
            [`ConfigurationError`]: the folder is or holds the dense model.
        """
        self._result()
        with self.output(folder, overwrite=overwrite, inputs=[self.dense.folder]) as output:
            self.save_to(output)

    def save_to(self, output: OutputFolder) -> None:
        """[`save_pretrained`] to a folder reserved by [`output`]."""
        self.pruned = write_pruned(self._result(), self.dense, output)

    def push_to_hub(self, repo_id: str, **options: Any) -> Push:
        """Pushes what was pruned to the Hub; if nothing was, the pruned checkpoint that was loaded from a folder or
        the Hub.

        ```python
        >>> FlabOptimizer.from_pretrained("out").push_to_hub("me/my-model-flab", private=True).url
        ```

        Args:
            repo_id (`str`): the repository, created if it does not exist.
            options: the other arguments of [`~optimum_flab.hub.push.push_to_hub`].

        Raises:
            [`FlabError`]: nothing was pruned, or the model in memory is not the one in its folder.
        """
        from .hub.push import push_to_hub

        folder = self.dense.folder
        if self.pruned is None and folder is not None and Checkpoint(folder).has(PLAN_NAME):
            check_as_written(self.dense)
            return push_to_hub(folder, repo_id, **options)
        with TemporaryDirectory() as temporary:
            self.save_pretrained(Path(temporary, "checkpoint"))
            return push_to_hub(Path(temporary, "checkpoint"), repo_id, **options)

    def export_gguf(self, path: str | Path, settings: ExportSettings | None = None, **options: Any) -> Exported:
        """Writes what was pruned, or else what was loaded, as a GGUF file; see [`~export.export_gguf`]."""
        from .export import export_gguf

        model = self.dense if self.pruned is None else in_place_of_dense(self.pruned, self.dense, self.output_dtype)
        types = self.pruned.plan.types if self.pruned is not None and settings is None else None
        return export_gguf(model, path, settings, **{"types": types or None, **options})

    def load_pruned(self, folder: str | Path) -> PrunedModel:
        """Takes a checkpoint that was pruned from this dense model, to recover or to evaluate it.

        Args:
            folder (`str` or `Path`): what [`save_pretrained`] wrote.

        Returns:
            [`PrunedModel`]: also kept as `self.pruned`.

        Raises:
            [`FlabError`]: the folder holds no pruned checkpoint, or one that does not fit this model.
        """
        self.pruned = read_pruned(folder, self.dense)
        return self.pruned

    def recover(self, config: RecoveryConfig | None = None, **options: Any) -> PrunedModel:
        """Trains the pruned model back towards the dense one.

        ```python
        >>> optimizer.load_pruned("out")
        >>> optimizer.recover(RecoveryConfig(data="problems.jsonl"), confirm_run_unsafe_code=True)
        >>> optimizer.save_pretrained("recovered")
        ```

        Args:
            config ([`~recovery.RecoveryConfig`], *optional*): what is trained on, and how. Defaults to the `recovery`
                section of the configuration that the model was pruned with.
            options: `confirm_run_unsafe_code`, `cache_dir` and `release_dense` as of [`~recovery.pipeline.recover`],
                which has the errors too.

        Returns:
            [`PrunedModel`]: also kept as `self.pruned`; same configuration, tokenizer and plan.
        """
        from .recovery.pipeline import recover

        self.dense.check_in_memory()
        computation_device(self.dense.device, exact=True)
        self.pruned = recover(self.dense, self._result(), config, **options)
        return self.pruned

    def summary(self) -> str:
        """What was removed and what it cost, for the terminal."""
        return report_summary(self._result().report)

    def complete(self, prompt: str, max_new_tokens: int = COMPLETION_TOKENS) -> dict[str, str]:
        """Greedy completions of a prompt by the dense and the pruned model, under the keys `"dense"` and `"pruned"`.

        Args:
            prompt (`str`): text to continue, taken as it is.
            max_new_tokens (`int`, defaults to 64): the most tokens to generate.
        """
        return completions(self.dense, self._result(), prompt, max_new_tokens)

    def evaluate(self, settings: EvaluationSettings, **options: Any) -> Evaluation:
        """Evaluates the dense model and, if there is one, the pruned model against it.

        ```python
        >>> settings = EvaluationSettings(tasks="humaneval", limit=20)
        >>> print(optimizer.evaluate(settings, confirm_run_unsafe_code=True).to_text())
        ```

        Args:
            settings ([`~settings.evaluation.EvaluationSettings`]): the tasks, and how they are asked.
            options: the other arguments of [`~optimum_flab.evaluation.harness.evaluate`] except `baseline`; both
                models are computed on the dense one's device and in its dtype (the command line: in that of the
                weights).
        """
        from .evaluation.harness import evaluate

        self.dense.check_in_memory()
        if self.pruned is None:
            return evaluate(self.dense, settings, **options)
        return evaluate(as_loaded_model(self.pruned, self.dense), settings, baseline=self.dense, **options)

    def _result(self) -> PrunedModel:
        if self.pruned is None:
            raise FlabError("nothing is pruned yet; call prune() or apply() first")
        return self.pruned
