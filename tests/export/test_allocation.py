"""Formats are allotted by a knapsack: never above the bytes, and the more bytes the less is lost."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimum_flab.export.allocation import Matrix, allocate, best_mixture, formats_of, mostly
from optimum_flab.export.mixtures import aligned, stored_bytes
from optimum_flab.settings.export import TYPES


options = st.lists(st.tuples(st.integers(1, 400), st.floats(0, 1)), min_size=1, max_size=4)
matrices = st.lists(options, min_size=1, max_size=5)


def columns(found):
    return [[size for size, _ in of] for of in found], [[loss for _, loss in of] for of in found]


@given(matrices, st.integers(0, 2000))
def test_nothing_within_the_bytes_loses_less(found, budget):
    sizes, losses = columns(found)
    possible = [
        sum(losses[place][one] for place, one in enumerate(chosen))
        for chosen in product(*(range(len(of)) for of in found))
        if sum(sizes[place][one] for place, one in enumerate(chosen)) <= budget
    ]
    chosen = allocate(sizes, losses, budget)
    if chosen is None:
        assert not possible
        return
    assert sum(sizes[place][one] for place, one in enumerate(chosen)) <= budget
    assert sum(losses[place][one] for place, one in enumerate(chosen)) == pytest.approx(min(possible))


@given(matrices, st.integers(1, 10**9), st.integers(0, 2000), st.integers(0, 2000))
def test_more_bytes_never_lose_more(found, scale, one, other):
    sizes, losses = columns(found)
    sizes = [[size * scale for size in of] for of in sizes]
    less, more = (allocate(sizes, losses, budget * scale) for budget in sorted((one, other)))
    if less is not None:
        assert more is not None
        lost = [sum(losses[place][one] for place, one in enumerate(chosen)) for chosen in (less, more)]
        assert lost[1] <= lost[0] + 1e-12
        assert sum(sizes[place][chosen] for place, chosen in enumerate(more)) <= max(one, other) * scale


def test_a_part_of_a_matrix_loses_its_share_and_the_embedding_what_its_tokens_do():
    losses = {name: {"Q4_0": 0.5, "Q8_0": 0.1} for name in ("token_embd.weight", "blk.3.ffn_up.weight")}
    parts = [
        Matrix("token_embd.weight", "token_embd.weight", (10, 32), 0.25),
        Matrix("blk.1.ffn_up.weight", "blk.3.ffn_up.weight", (20, 32), 0.5),
    ]
    sizes = [aligned(stored_bytes(one.shape, kind)) for one in parts for kind in ("Q4_0", "Q8_0")]
    mixture = best_mixture(parts, losses, sizes[1] + sizes[2])
    assert mixture.types == {"token_embd.weight": "Q8_0", "blk.1.ffn_up.weight": "Q4_0"}
    assert mixture.loss == pytest.approx(0.1 + 0.25)
    assert best_mixture(parts, losses, sizes[0] + sizes[2] - 1) is None


def test_rows_admit_the_formats_whose_blocks_they_are_whole_numbers_of():
    blocks_of_32 = {"IQ4_NL", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"}
    assert {*formats_of("blk.0.ffn_up.weight", 896)} == blocks_of_32
    assert {*formats_of("blk.0.ffn_up.weight", 512)} > blocks_of_32 | {"IQ1_S", "Q6_K"}
    assert {*formats_of("blk.0.ffn_up.weight", 48)} == {"F16"}
    # llama.cpp makes these with an importance matrix alone, which embedding and head have none of
    assert "IQ2_XXS" not in formats_of("token_embd.weight", 512)


def test_a_file_is_called_after_the_format_of_most_of_its_matrices():
    types = ["Q4_K", "Q4_K", "IQ3_S"]
    assert mostly(dict(enumerate(types))) == "q4_k_m"
    assert {mostly({"x": kind}) for kind in formats_of("x", 512)} <= {*TYPES}
