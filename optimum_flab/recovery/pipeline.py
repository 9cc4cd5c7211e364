"""From a pruned model and its dense model to a recovered one: the order of the steps, nothing else."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from ..cache import cache_root
from ..checkpoints.loading import dense_hash, weights_hash
from ..checkpoints.surgery import check_plan, copy_in, placed
from ..errors import ConfigurationError, FlabError
from ..execution import check_packages
from ..measuring.divergence import OutputHead, final_hidden, mean_divergence
from ..measuring.held_out import DenseSide, cut_texts
from ..memory import give_back_memory
from ..pruning.budget import shape_of
from ..records.atomic import write_atomically
from ..records.report import (
    ClosedForm,
    CurvePoint,
    HeldOut,
    PlainText,
    Recovery,
    RecoveryData,
    RecoveryEstimate,
    RecoveryTraining,
)
from ..running.generation import BatchCache
from ..settings.recovery import ADAPTER_FOLDER, RecoverySettings, check_recovery
from ..texts.packing import PackedTokens
from ..texts.sources import hub_datasets, read_sources
from .closed_form import between, refit
from .curve import CURVE_NAME, draw_curve
from .data import Data, Selected, expected_rows, held_out_texts, prepare, select, within_tokens
from .encoding import Sequences
from .estimates import Estimate, disk_needed, seconds_per_row, seconds_per_token, training_memory, training_seconds
from .instructions import Example, read_instructions
from .launch import check_agreement, process_state
from .overlap import source_texts
from .strategy import to_answer
from .teacher import CachedTeacher, DenseTeacher, cache_bytes
from .training import (
    Training,
    TrainingSizes,
    load_training,
    merged,
    number_format,
    save_training,
    shares_of,
    train,
    training_sizes,
    with_lora,
)
from .work import Steps, Work


MEASURED_AT_ONCE = 8  # rows per forward pass where nothing is trained
REFIT_SHARES = (1.0, 0.5, 0.25)  # of the way that the closed form points out
CHECKPOINTS = "checkpoints"
# settings whose effect on a training is in its rows, or that have none
DECIDE_NOTHING = {
    "data",
    "text",
    "text_tokens",
    "exclude",
    "allow_packages",
    "held_out",
    "held_out_tokens",
    "keep_adapter",
    "micro_batch_size",
}


@dataclass(frozen=True)
class Recovered:
    """What a recovery gives.

    Args:
        model (`PreTrainedModel`): of the pruned model's class, shape and dtype.
        held_out ([`HeldOut`], *optional*): for the report, measured anew; `None` in all processes but the first.
        section ([`Recovery`], *optional*): for the report; `None` in all processes but the first.
        files (`dict[str, Path]`): what goes beside the weights, by its name there.
    """

    model: PreTrainedModel
    held_out: HeldOut | None
    section: Recovery | None
    files: dict[str, Path] = field(default_factory=dict)


def check_teacher(work: Work) -> None:
    """Raises a [`FlabError`] unless the plan was made for this dense model and this pruned one."""
    plan, name = work.plan, work.dense.name
    check_plan(work.dense.model, work.family, plan)
    found = dense_hash(work.dense)
    if found != plan.base_hash:
        raise FlabError(
            f"teacher {name!r} has weights {found[:12]}…, the model was pruned from {plan.base_model!r} with weights "
            f"{plan.base_hash[:12]}…; give the model that it was pruned from"
            + ("" if work.dense.model.dtype == torch.float32 else ", without a --dtype that rounds its weights")
        )
    rows = work.model.get_input_embeddings().weight.shape[0]
    if rows != plan.vocab_size:
        raise FlabError(
            f"the pruned model has {rows:,} embedding rows, its plan says {plan.vocab_size:,}; the folder mixes files "
            "of two prunings, prune again"
        )
    vocabulary = work.tokenizer.get_vocab()
    dense_vocabulary = work.dense.tokenizer.get_vocab()
    for token, number in vocabulary.items():
        dense_number = (
            number
            if plan.kept_tokens is None
            else (plan.kept_tokens[number] if number < len(plan.kept_tokens) else None)
        )
        if dense_vocabulary.get(token) != dense_number:
            raise FlabError(
                f"token {token!r} has id {number} in the pruned tokenizer, which the plan takes from dense id "
                f"{dense_number}, but in {name!r} it is {dense_vocabulary.get(token)}; give the teacher that the "
                "model was pruned from"
            )


def check_inputs(settings: RecoverySettings, consent: bool) -> None:
    """Refuses, before any model is read, settings and data that a recovery would refuse."""
    check_recovery(settings)
    check_consent(settings, read_instructions(settings.data), consent)
    source_texts([*settings.exclude, *settings.held_out])
    read_sources(settings.text)


def check_consent(settings: RecoverySettings, examples: Sequence[Example], consent: bool) -> None:
    """Raises a [`ConfigurationError`] if programs would have to run and may not, or lack the packages that they are
    allowed; called before any long work."""
    if settings.answers != "dense" or not any(one.test is not None and not one.blank for one in examples):
        return
    if not consent:
        raise ConfigurationError(
            "the data has tests, so programs that the dense model writes would be run in a sandbox; consent with "
            "--confirm-run-unsafe-code (confirm_run_unsafe_code=True), or learn from the references alone with "
            "--answers reference"
        )
    check_packages(settings.allow_packages)


def recover(
    work: Work,
    settings: RecoverySettings,
    *,
    confirm_run_unsafe_code: bool = False,
    cache_dir: str | Path | None = None,
    release_dense: bool = False,
) -> Recovered:
    """Trains a pruned model back towards its dense model.

    Everything that takes long is kept in `cache_dir` by content: a run that was interrupted goes on where it was, and
    gives what an uninterrupted one gives. Under `accelerate launch` every process calls this; the first prepares, and
    all train.

    Args:
        work ([`Work`]): the models.
        settings ([`RecoverySettings`]): what is asked for.
        confirm_run_unsafe_code (`bool`): the dense model's answers may be run against the problems' tests.
        cache_dir (`str` or `Path`, *optional*): defaults to `optimum_flab/recovery` in the folder of the Hugging Face
            cache (`HF_HOME`).
        release_dense (`bool`): give up the dense model's weights once they are no longer needed; it cannot be used
            afterwards.

    Raises:
        [`ConfigurationError`]: faulty settings, or consent is missing.
        [`FlabError`]: the dense model is another, the data is not usable, or the disk is full.
    """
    check_recovery(settings)
    device = work.dense.model.device
    settings = settings.model_copy(update={"dtype": number_format(settings.dtype, device)})
    state = process_state(device)
    steps = Steps(quiet=not state.is_main_process)
    root = Path(cache_dir).expanduser() if cache_dir is not None else cache_root("recovery")
    cache = BatchCache(root / "answers")
    cache.prepare()
    examples = read_instructions(settings.data)
    check_consent(settings, examples, confirm_run_unsafe_code)
    with steps.step("checks"):
        check_teacher(work)
    with state.main_process_first():
        ready = _before_training(
            work,
            settings,
            examples,
            cache,
            root,
            steps,
            device,
            state.num_processes,
            state.is_main_process,
            release_dense,
        )
    check_agreement(ready.folder.name, state)
    give_back_memory()
    with steps.step("training"):
        training = _trained(ready, settings, device, steps)
    state.wait_for_everyone()  # the others may still read the best checkpoint
    if state.is_main_process:
        save_training(training, ready.folder)
    give_back_memory()
    with steps.step("merge"):
        model = merged(ready.start, training, work.model.dtype)
    if ready.side is None:
        return Recovered(model, None, None)
    with steps.step("held-out measurement"):
        after = ready.side.measure(model)
    for note in training.notes:
        steps.say(f"note: {note}")
    section = _section(settings, ready, after, training, steps, state.num_processes)
    return Recovered(model, after, section, _files(ready, settings, training))


@dataclass(frozen=True)
class Ready:
    """Everything that training starts from.

    Args:
        folder (`Path`): for what this training keeps.
        start (`PreTrainedModel`): the pruned model, refitted or as it was.
        closed_form ([`ClosedForm`], *optional*): what the refit did.
        teachers (`tuple`): cached predictions for the rows to train on and those set aside.
        dense ([`DenseTeacher`], *optional*): where predictions are computed as they are needed.
        side ([`DenseSide`], *optional*): to measure against; `None` in all processes but the first.
        before ([`HeldOut`], *optional*): what the pruned model costs on held-out text.
        pruned_hash (`str`): SHA-256 of the pruned model's weights.
    """

    data: Data
    sizes: TrainingSizes
    estimate: Estimate
    folder: Path
    start: PreTrainedModel
    closed_form: ClosedForm | None
    teachers: tuple[CachedTeacher | None, CachedTeacher | None]
    dense: DenseTeacher | None
    side: DenseSide | None
    before: HeldOut | None
    pruned_hash: str


def _before_training(
    work: Work,
    settings: RecoverySettings,
    examples: list[Example],
    cache: BatchCache,
    root: Path,
    steps: Steps,
    device: torch.device,
    processes: int,
    first: bool,
    release_dense: bool,
) -> Ready:
    dtype = getattr(torch, settings.dtype)
    distils = shares_of(settings).distillation > 0
    cached = distils and settings.teacher == "cached"
    resident = distils and not cached
    with steps.step("data"):
        selected = select(work, settings, examples, held_out_texts(settings, work.plan), steps)
        # everything that the settings could be refused for, with the references in place of the answers to come
        expected = expected_rows(work, settings, selected)
        sizes = training_sizes(settings, len(expected), processes)
        estimate = _estimate(work, settings, selected, expected, sizes, cached, processes, dtype)
    steps.say(estimate.describe())
    _check_space(root, estimate)
    with steps.step("answers"):
        data = prepare(work, settings, selected, cache, steps, dtype)
    sizes = training_sizes(settings, len(data.rows), processes)
    pruned_hash = weights_hash(work.model)
    folder = root / "runs" / run_key(work, pruned_hash, settings, data, sizes)
    steps.say(f"{data.counts.describe()}; {len(data.rows):,} sequences, {sizes.steps:,} steps in {settings.dtype}")
    steps.say(data.counts.describe_answers())
    with steps.step("held-out measurement"):
        measured = within_tokens(work, data.held_out, settings) if first else []
        side = _dense_side(work, measured, settings) if first else None
        before = side and side.measure(work.model)
    computing = placed(work.dense.model, device, dtype) if distils or settings.closed_form else None
    if release_dense and computing is not work.dense.model:
        work.dense.model.to("meta")
        give_back_memory()

    def give_up_dense() -> None:
        """Frees the weights that no later step reads."""
        if computing is not None and not resident and (release_dense or computing is not work.dense.model):
            computing.to("meta")
            give_back_memory()

    teachers: tuple[CachedTeacher | None, CachedTeacher | None] = (None, None)
    if cached:
        with steps.step("dense predictions"):
            teachers = _cached(work, computing, settings, data, root / "teacher", steps)
    start, closed = work.model, None
    if settings.closed_form:
        with steps.step("closed form"):
            start, closed = _closed_form(work, computing, settings, data, folder, steps, dtype, give_up_dense)
    give_up_dense()
    asked = DenseTeacher(computing, work.family, work.plan.kept_tokens) if resident else None
    return Ready(data, sizes, estimate, folder, start, closed, teachers, asked, side, before, pruned_hash)


def _trained(ready: Ready, settings: RecoverySettings, device: torch.device, steps: Steps) -> Training:
    done = load_training(ready.folder, ready.start, settings)
    if done is not None:
        steps.say(f"this very training was finished before; its result is taken from {ready.folder}")
        return done
    folder = ready.folder / CHECKPOINTS
    data = ready.data
    return train(
        ready.start, data.rows, data.validation, ready.teachers, ready.dense, settings, ready.sizes, folder, device
    )


# --- before training -----------------------------------------------------------------------------------------------


def run_key(work: Work, pruned_hash: str, settings: RecoverySettings, data: Data, sizes: TrainingSizes) -> str:
    """Names a training by everything that decides its result, but not by how many processes share it."""
    values = {
        "dense": work.plan.base_hash,
        "pruned": pruned_hash,
        "rows": data.rows.digest,
        "validation": data.validation.digest,
        "settings": settings.model_dump(exclude=DECIDE_NOTHING),
        "steps": sizes.steps,
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:32]


def _estimate(
    work: Work,
    settings: RecoverySettings,
    selected: Selected,
    expected: Sequences,
    sizes: TrainingSizes,
    cached: bool,
    processes: int,
    dtype: torch.dtype,
) -> Estimate:
    probe = copy_in(work.model, work.dense.model.device, dtype)
    per_row = seconds_per_row(probe, expected.tokens, sizes.micro_batch_size)
    parameters = sum(parameter.numel() for parameter in probe.parameters())
    trained = sum(p.numel() for p in with_lora(probe, settings).parameters() if p.requires_grad)
    del probe
    answers = 0.0
    if settings.answers == "dense":
        number = len(to_answer(selected.examples, settings.dense_share, settings.seed))
        batch = min(number, settings.generation_batch_size)
        if number:
            per_token = seconds_per_token(placed(work.dense.model, work.dense.model.device, dtype), batch)
            answers = per_token * settings.max_new_tokens * math.ceil(number / batch)
    itemsize = work.model.dtype.itemsize
    cache = cache_bytes(expected.tokens, settings.top_k) if cached else 0
    refitted = parameters * itemsize if settings.closed_form else 0
    experts, config = work.family.experts, work.model.config
    at_once = 1 if experts is None else getattr(config, experts.per_token)
    return Estimate(
        memory_bytes=training_memory(
            config,
            at_once * shape_of(work.model, work.family)["neuron"],
            parameters,
            trained,
            sizes,
            settings.sequence_length,
            dtype.itemsize,
            settings.gradient_checkpointing,
        ),
        disk_bytes=disk_needed(trained, parameters, itemsize, cache + refitted),
        seconds=training_seconds(per_row, sizes, max(1, round(len(expected) * settings.validation_share)), processes),
        answer_seconds=answers,
    )


def _check_space(root: Path, estimate: Estimate) -> None:
    """Raises a [`FlabError`] if checkpoints and predictions would not fit on the disk, with what is there of them."""
    free = shutil.disk_usage(root).free
    there = sum(path.stat().st_size for name in ("runs", "teacher") for path in (root / name).rglob("*.safetensors"))
    if free + there < estimate.disk_bytes:
        raise FlabError(
            f"checkpoints and the dense model's predictions take {estimate.disk_bytes / 1e6:,.0f} MB, and the disk of "
            f"{str(root)!r} has {free / 1e6:,.0f} MB free; free some, or name another folder with --cache-dir"
        )


def _dense_side(work: Work, texts: Sequence[str], settings: RecoverySettings) -> DenseSide:
    plan = work.plan
    cut = cut_texts(
        work.dense.tokenizer, work.tokenizer, plan.kept_tokens, plan.vocab_size, texts, settings.sequence_length
    )
    return DenseSide(work.dense.model, work.family, cut, MEASURED_AT_ONCE)


def _cached(
    work: Work, dense: PreTrainedModel, settings: RecoverySettings, data: Data, folder: Path, steps: Steps
) -> tuple[CachedTeacher, CachedTeacher]:
    teacher = DenseTeacher(dense, work.family, work.plan.kept_tokens)
    k = min(settings.top_k, teacher.head.weight.shape[0])
    vocabulary = hashlib.sha256(json.dumps(work.plan.kept_tokens).encode()).hexdigest()
    identity = {"dense": work.plan.base_hash, "vocabulary": vocabulary, "dtype": settings.dtype}
    rows = CachedTeacher(folder, data.rows.tokens, identity, k)
    validation = CachedTeacher(folder, data.validation.tokens, identity, k)
    with steps.bar("Predictions of the dense model", len(rows.missing()) + len(validation.missing()), "file") as tick:
        for part in (validation, rows):
            part.fill(teacher.likeliest, tick)
    return rows, validation


@torch.no_grad()
def _closed_form(
    work: Work,
    dense: PreTrainedModel,
    settings: RecoverySettings,
    data: Data,
    folder: Path,
    steps: Steps,
    dtype: torch.dtype,
    give_up_dense: Callable[[], None],
) -> tuple[PreTrainedModel, ClosedForm]:
    """The refitted model if it is nearer to the dense one on the rows set aside, else the model as it was.

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
    computing = copy_in(work.model, dense.device, dtype)
    most = max(1, settings.closed_form_tokens // settings.sequence_length)
    tokens = next(data.rows.tokens.batches(most))
    with steps.bar("Refitting in closed form", len(work.plan.kept_layers), "layer") as tick:
        refit(
            dense,
            computing,
            work.family,
            work.plan.kept_layers,
            as_dense(tokens),
            tokens,
            MEASURED_AT_ONCE,
            lambda: tick(1),
        )
    measure = _validation_divergence(work, dense, data.validation.tokens, as_dense, dtype)
    give_up_dense()
    best = beginning()
    found = {0.0: measure(work.model)}
    for share in REFIT_SHARES:
        between(work.model, computing, share, best)
        found[share] = measure(best)
    share = min(found, key=found.__getitem__)
    between(work.model, computing, share, best)
    section = ClosedForm(before=found[0.0], after=found[share], share=share, kept=share > 0)
    weights = {name: p.detach().contiguous() for name, p in best.named_parameters()} if section.kept else {}
    metadata = {"section": section.model_dump_json()}
    write_atomically(file, lambda partial: save_file(weights, partial, metadata=metadata))
    steps.say(
        f"closed form: divergence {section.before:.4f} -> {section.after:.4f} on the sequences set aside, "
        + (f"going {share:.0%} of the way" if section.kept else "so it is left out")
    )
    return (best if section.kept else work.model), section


def _validation_divergence(
    work: Work,
    dense: PreTrainedModel,
    tokens: PackedTokens,
    as_dense: Callable[[PackedTokens], PackedTokens],
    dtype: torch.dtype,
) -> Callable[[PreTrainedModel], float]:
    """A model's divergence on the sequences set aside."""
    family, kept = work.family, work.plan.kept_tokens
    device, rows = dense.device, range(work.plan.vocab_size if kept is None else len(kept))
    hidden = final_hidden(dense, family, as_dense(tokens), MEASURED_AT_ONCE)
    head = OutputHead(dense, family, list(rows) if kept is None else kept)

    def measure(model: PreTrainedModel) -> float:
        measured = placed(model, device, dtype)
        own = final_hidden(measured, family, tokens, MEASURED_AT_ONCE)
        return mean_divergence(hidden, own, head, OutputHead(measured, family, rows))

    return measure


# --- afterwards ----------------------------------------------------------------------------------------------------


def _section(
    settings: RecoverySettings, ready: Ready, after: HeldOut, training: Training, steps: Steps, processes: int
) -> Recovery:
    """The report's `recovery` section."""
    data, counts = ready.data, ready.data.counts
    return Recovery(
        pruned_weights_sha256=ready.pruned_hash,
        settings=settings.model_dump(),
        datasets=tuple(hub_datasets(settings.sources)),
        data=RecoveryData(
            examples=counts.read,
            dropped=counts.dropped,
            kept=counts.kept,
            plain_text=PlainText(passages=counts.passages, overlapping=counts.passages_dropped),
            answers=counts.answers,
            answers_rejected=counts.rejected,
            sequences=len(data.rows),
            validation_sequences=len(data.validation),
            tokens=data.rows.tokens.tokens,
            answer_tokens=int((data.rows.labels >= 0).sum()),
        ),
        held_out_before=ready.before,
        held_out_after=after,
        closed_form=ready.closed_form,
        training=RecoveryTraining(
            **asdict(ready.sizes),
            processes=processes,
            dtype=settings.dtype,
            steps_done=training.steps,
            best_step=training.best_step,
            start_loss=training.start_loss,
            best_loss=training.best_loss,
            curve=tuple(CurvePoint(**point) for point in training.curve),
        ),
        estimate=RecoveryEstimate(**ready.estimate.to_dict()),
        seconds=steps.seconds,
        notes=tuple(training.notes),
    )


def _files(ready: Ready, settings: RecoverySettings, training: Training) -> dict[str, Path]:
    """Writes the loss curve and, where asked for, the adapter."""
    folder, start = ready.folder, ready.start
    folder.mkdir(parents=True, exist_ok=True)
    curve = folder / CURVE_NAME
    unit = {"distillation": "divergence (nats)", "cross-entropy": "cross-entropy (nats)", "both": "loss (nats)"}
    draw_curve(training.curve, training.best_step, unit[settings.loss], curve)
    files = {CURVE_NAME: curve}
    if settings.keep_adapter and training.adapter is not None:
        from peft import get_peft_model, set_peft_model_state_dict

        adapter = folder / ADAPTER_FOLDER
        base = copy_in(start, torch.device("cpu"), start.dtype)
        base.config._name_or_path = base.name_or_path = ""  # the pruned checkpoint, wherever it will lie
        model = get_peft_model(base, replace(training.config, base_model_name_or_path=None))
        set_peft_model_state_dict(model, training.adapter)
        model.save_pretrained(adapter)
        (adapter / "README.md").unlink(missing_ok=True)  # an empty form
        files[ADAPTER_FOLDER] = adapter
    return files
