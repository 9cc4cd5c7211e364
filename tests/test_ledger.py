"""What stages of a run cost, and how many products they are made of."""

from collections import Counter

import pytest
import torch

from optimum_flab.records.ledger import CommandCost, Ledger, Meter, StageCost, total_cost
from optimum_flab.records.rows import LEDGER_HEADING, ledger_rows
from optimum_flab.records.work import Stage, WorkFolder
from optimum_flab.tensors.products import counted_products

from .conftest import tiny_model


A, B = torch.eye(3) + torch.ones(3, 3), torch.ones(3, 5)


@pytest.mark.parametrize(
    ("work", "flop"),
    [
        (lambda: A @ B, 90),
        (lambda: torch.nn.functional.linear(B.T.expand(2, 5, 3), A, torch.ones(3)), 180),
        (lambda: torch.zeros(3, 5).addmm_(A, B), 90),
        (lambda: torch.baddbmm(torch.zeros(2, 3, 5), A.expand(2, 3, 3), B.expand(2, 3, 5)), 180),
        (lambda: torch.linalg.cholesky(A), 9),
        (lambda: torch.linalg.solve_triangular(A, B, upper=False, out=torch.empty(3, 5)), 45),
        (lambda: torch.linalg.solve(A, B), 2 * 3 * (3 + 15)),
        (lambda: torch.nn.functional.scaled_dot_product_attention(*torch.ones(3, 2, 4, 6, 8)), 4 * 2 * 4 * 6 * 6 * 8),
        (lambda: A + A.sum(), 0),
    ],
)
def test_products_are_counted(work, flop):
    counted = Counter()
    with torch.no_grad(), counted_products(counted):
        result = work()
    assert counted == Counter({"float32": flop} if flop else {})
    assert torch.equal(result, work())  # it is computed as without counting


def test_a_backward_pass_through_a_layer_counts_twice_its_forward_one():
    model = tiny_model("llama")
    layer, hidden = (
        model.model.layers[0].requires_grad_(),
        torch.ones(2, 8, model.config.hidden_size, requires_grad=True),
    )
    positions = model.model.rotary_emb(hidden, torch.arange(8)[None])
    forward, both = Counter(), Counter()
    with counted_products(forward):
        layer(hidden, position_embeddings=positions)
    with counted_products(both):
        output = layer(hidden, position_embeddings=positions)
        torch.autograd.grad(output.sum(), [hidden, *layer.parameters()])
    matrices = sum(weight.numel() for weight in layer.parameters() if weight.ndim == 2)
    attention = 4 * 2 * 8 * 8 * model.config.num_attention_heads * layer.self_attn.head_dim
    assert forward["float32"] == 2 * 16 * matrices + attention
    assert both["float32"] == 3 * 2 * 16 * matrices + 3.5 * attention


def saved_work(root, counts=True):
    """The ledger of a run that multiplies matrices, unless an earlier one did."""
    work = WorkFolder(root, ledger=Ledger(counts))
    stage = Stage("product", lambda value, folder: torch.save(value, folder / "n"), lambda f: torch.load(f / "n"))
    work.value(stage, {}, lambda pieces: A @ B)
    work.value(stage, {}, lambda pieces: A @ B)
    return work.ledger


def test_what_an_earlier_run_did_has_what_it_cost_that_run(tmp_path):
    first, second = saved_work(tmp_path), saved_work(tmp_path, counts=False)
    (cost,), (again,) = first.stages.values(), second.stages.values()
    assert cost.flop == {"float32": 90} and not cost.earlier
    assert again.earlier and again.flop == cost.flop and 0 < again.wall_seconds <= cost.wall_seconds
    assert first.total.wall_seconds >= cost.wall_seconds and first.total.flop == {"float32": 90}
    slow = {"product": again.model_copy(update={"wall_seconds": 3600.0, "peak_bytes": 10**15})}
    total = total_cost(Meter(), slow)
    assert 3600 <= total.wall_seconds < 3700 and total.peak_bytes == 10**15
    assert str(CommandCost(slow, total)).endswith("at most 1000000.0 GB of memory, 1 h 0 min of it in earlier runs)")


def test_a_stage_that_is_taken_up_again_costs_both_and_what_is_not_known_stays_so():
    one = StageCost(wall_seconds=1, cpu_seconds=2, flop={"float32": 3}, bytes_written=5, peak_bytes=7)
    both = one + StageCost(wall_seconds=1, cpu_seconds=1, flop={"float32": 1, "bfloat16": 1}, peak_bytes=6)
    assert both == StageCost(
        wall_seconds=2, cpu_seconds=3, flop={"float32": 4, "bfloat16": 1}, bytes_written=5, peak_bytes=7
    )


def test_what_is_done_within_a_stage_is_a_part_of_it():
    ledger = Ledger(counts=True)
    for _ in range(2):
        with ledger.stage("outer"), ledger.stage("inner") as spent:
            A @ B
            assert spent().flop == {"float32": 90}
            ledger.reuse("saved", StageCost())
    assert {name: cost.flop for name, cost in ledger.stages.items()} == {"outer": {"float32": 180}}


def test_the_table_has_what_is_between_the_stages():
    stages = {"a": StageCost(wall_seconds=2, cpu_seconds=4, flop={"float32": 8 * 10**12}, bytes_written=10**6)}
    total = StageCost(wall_seconds=5, cpu_seconds=6, flop={"float32": 8 * 10**12}, bytes_written=3 * 10**6)
    rows = ledger_rows(CommandCost(stages, total))
    assert all(len(row) == len(LEDGER_HEADING) for row in rows)
    assert rows[0] == ["a", "2.0", "4.0", "8.00", "2,000", "1", "–"]
    assert rows[1][1:] == ["3.0", "2.0", "–", "–", "2", "–"]
