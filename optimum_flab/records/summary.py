"""A report as the terminal shows it. Lightweight."""

from __future__ import annotations

from .held_out import HeldOut
from .report import Recovery, Report
from .rows import (
    FILE_HEADING,
    component_rows,
    count_texts,
    file_rows,
    nats,
    shape_rows,
    text_table,
)
from .verdict import file_verdicts, verdict_of


def report_summary(report: Report) -> str:
    """The report as a table for the terminal."""
    dense = report.dense
    pruned = report.pruned
    held_out = report.held_out
    parameters = (row._replace(label=f"{row.label} params") for row in component_rows(report))
    rows = [*shape_rows(report), *parameters]
    lines = [
        f"{report.base_model.name}: {dense.parameters:,} -> {pruned.parameters:,} parameters "
        f"({report.removed_ratio:.1%} removed; {report.removed_body_ratio:.1%} of all but the vocabulary), "
        f"{dense.bytes / 1e6:,.0f} -> {pruned.bytes / 1e6:,.0f} MB",
        "",
        *text_table([["", "dense", "pruned"], *(row.cells()[:3] for row in rows)], (27, 16, 16)),
    ]
    if report.removed_layer_indices:
        lines.append(f"layers removed: {', '.join(map(str, report.removed_layer_indices))}")
    if held_out is not None:
        dense_bits, bits = held_out.dense_bits_per_byte, held_out.pruned_bits_per_byte
        lines += [
            "",
            f"On {count_texts(held_out.texts, 'held-out')} ({held_out.positions:,} tokens):",
            f"  bits per byte          {dense_bits:.4f} -> {bits:.4f} ({bits / dense_bits - 1:+.1%})",
            f"  divergence             {nats(held_out.divergence)} nats per token, over the vocabulary that is left",
            f"  removed tokens         had {held_out.lost_mass:.3%} of the dense model's probability",
            f"  tokens                 {held_out.dense_tokens:,} -> {held_out.pruned_tokens:,} "
            f"({held_out.texts_cut_differently} texts tokenised differently)",
            *_kind_lines(held_out),
        ]
    if report.files:
        lines += ["", files_summary(report), ""]
    if report.recovery is not None:
        lines += ["", *_recovery_lines(report.recovery)]
    texts = report.texts
    if texts is not None and texts.corpus_cut_differently:
        compared = texts.corpus_compared or texts.corpus
        lines.append(
            f"{texts.corpus_cut_differently:,} of {compared:,} corpus texts are tokenised differently than before"
            + f" (a sample of the {texts.corpus:,})" * (compared < texts.corpus)
        )
    if texts is not None and texts.preset_words_cut_differently:
        cut, words = texts.preset_words_cut_differently, texts.preset_words
        lines.append(f"{cut:,} of {words:,} words of the preset are tokenised differently than before")
    if texts is not None and texts.counts:
        lines.append(f"{texts.counted_whole:.3%} of the {texts.counted_tokens:,} tokens in files of counts stay whole")
    lines += [f"note: {note}" for note in report.notes]
    if verdict := verdict_of(report):
        lines += ["", f"What to expect: {verdict}"]
    return "\n".join(lines)


def files_summary(report: Report) -> str:
    """The GGUF files of a model as a table for the terminal, and what to expect of each."""
    table = text_table([FILE_HEADING, *file_rows(report)])
    return "\n".join([*table, *(f"{name}: {said}" for name, said in file_verdicts(report).items())])


def _kind_lines(held_out: HeldOut) -> list[str]:
    if len(held_out.by_kind) < 2:
        return []
    rows = [["By kind of text", "tokens", "divergence", "bits per byte"]]
    for kind, cost in held_out.by_kind.items():
        bits = f"{cost.dense_bits_per_byte:.4f} -> {cost.pruned_bits_per_byte:.4f}"
        rows.append([kind, f"{cost.positions:,}", nats(cost.divergence), bits])
    return ["", *text_table(rows, (18, 10, 13, 23))]


def _recovery_lines(recovery: Recovery) -> list[str]:
    before, after = recovery.held_out_before, recovery.held_out_after
    return [
        f"Recovery on {recovery.data.sequences:,} sequences ({recovery.data.tokens:,} tokens), "
        f"{recovery.training.best_step:,} steps:",
        f"  divergence             {before.divergence:.4f} -> {after.divergence:.4f}",
        f"  bits per byte          {before.pruned_bits_per_byte:.4f} -> {after.pruned_bits_per_byte:.4f}",
        *(f"  note: {note}" for note in recovery.notes),
    ]
