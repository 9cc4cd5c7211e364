"""A report as the terminal shows it. Lightweight."""

from __future__ import annotations

from ..settings.pruning import COMPONENTS
from .held_out import HeldOut
from .report import Recovery, Report
from .verdict import verdict_of


def report_summary(report: Report) -> str:
    """The report as a table for the terminal."""
    dense, pruned, held_out = report.dense, report.pruned, report.held_out
    lines = [
        f"{report.base_model.name}: {dense.parameters:,} -> {pruned.parameters:,} parameters "
        f"({report.removed_ratio:.1%} removed; {report.removed_body_ratio:.1%} of all but the vocabulary), "
        f"{dense.bytes / 1e6:,.0f} -> {pruned.bytes / 1e6:,.0f} MB",
        "",
        f"{'':<27}{'dense':>16}{'pruned':>16}",
    ]
    for part in COMPONENTS:
        sizes = [side.sizes.get(part.reported) for side in (dense, pruned)]
        if all(sizes):
            lines.append(f"{part.label:<27}" + "".join(f"{size:>16,}" for size in sizes))
    for component, size in dense.components.items():
        left = pruned.components[component]
        lines.append(f"{component + ' params':<27}{size.parameters:>16,}{left.parameters:>16,}")
    if report.removed_layer_indices:
        lines.append(f"layers removed: {', '.join(map(str, report.removed_layer_indices))}")
    if held_out is not None:
        dense_bits, bits = held_out.dense_bits_per_byte, held_out.pruned_bits_per_byte
        lines += [
            "",
            f"On {held_out.texts} held-out texts ({held_out.positions:,} tokens):",
            f"  bits per byte          {dense_bits:.4f} -> {bits:.4f} ({bits / dense_bits - 1:+.1%})",
            f"  divergence             {held_out.divergence:.4f} nats per token, over the vocabulary that is left",
            f"  removed tokens         had {held_out.lost_mass:.3%} of the dense model's probability",
            f"  tokens                 {held_out.dense_tokens:,} -> {held_out.pruned_tokens:,} "
            f"({held_out.texts_cut_differently} texts tokenised differently)",
            *_kind_lines(held_out),
        ]
    if report.recovery is not None:
        lines += ["", *_recovery_lines(report.recovery)]
    texts = report.texts
    if texts is not None and texts.corpus_cut_differently:
        lines.append(
            f"{texts.corpus_cut_differently:,} of {texts.corpus:,} corpus texts are tokenised differently than before"
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


def _kind_lines(held_out: HeldOut) -> list[str]:
    if len(held_out.by_kind) < 2:
        return []
    return [
        "",
        f"{'By kind of text':<18}{'tokens':>10}{'divergence':>13}{'bits per byte':>23}",
        *(
            f"{kind:<18}{cost.positions:>10,}{cost.divergence:>13.4f}"
            f"{f'{cost.dense_bits_per_byte:.4f} -> {cost.pruned_bits_per_byte:.4f}':>23}"
            for kind, cost in held_out.by_kind.items()
        ),
    ]


def _recovery_lines(recovery: Recovery) -> list[str]:
    before, after = recovery.held_out_before, recovery.held_out_after
    return [
        f"Recovery on {recovery.data.sequences:,} sequences ({recovery.data.tokens:,} tokens), "
        f"{recovery.training.best_step:,} steps:",
        f"  divergence             {before.divergence:.4f} -> {after.divergence:.4f}",
        f"  bits per byte          {before.pruned_bits_per_byte:.4f} -> {after.pruned_bits_per_byte:.4f}",
        *(f"  note: {note}" for note in recovery.notes),
    ]
