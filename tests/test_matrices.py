"""Large matrices: factored, inverted and cut in place, in memory and on the disk."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optimum_flab.tensors import matrices
from optimum_flab.tensors.least_squares import LeastSquares, best_fit, solve
from optimum_flab.tensors.matrices import cholesky_, full_sum, halves_of, inverse_, submatrix
from optimum_flab.tensors.workspace import OPEN_FILES, Workspace
from optimum_flab.utils.errors import FlabError


def positive_definite(size, seed, dtype=torch.float32):
    rows = torch.randn(2 * size + 4, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    gram = (rows.T @ rows).to(dtype)
    return (gram + gram.T) / 2


BLOCKS = st.sampled_from([3, 16, 1024])


@given(size=st.integers(1, 40), seed=st.integers(0, 100), rows=BLOCKS)
@settings(max_examples=30, deadline=None)
def test_the_inverse_takes_the_place_of_the_matrix(size, seed, rows):
    gram = positive_definite(size, seed)
    exact = torch.linalg.inv(gram.double())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matrices, "ROWS", rows)
        found = inverse_(gram)
    assert found.data_ptr() == gram.data_ptr() and gram.equal(gram.T)
    torch.testing.assert_close(gram.double(), exact, rtol=1e-3, atol=1e-3 * float(exact.abs().max()))


@given(
    size=st.integers(1, 40),
    seed=st.integers(0, 100),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    rows=BLOCKS,
)
@settings(max_examples=30, deadline=None)
def test_the_factor_takes_the_lower_half_and_the_upper_stays(size, seed, dtype, rows):
    gram = positive_definite(size, seed, dtype)
    factor = gram.clone()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matrices, "ROWS", rows)
        assert cholesky_(factor)
    torch.testing.assert_close(factor.tril() @ factor.tril().T, gram, rtol=1e-4, atol=1e-3)
    assert factor.triu(1).equal(gram.triu(1))


def test_what_is_not_positive_definite_is_said():
    assert not cholesky_(-torch.eye(3))
    with pytest.raises(torch.linalg.LinAlgError, match="not positive definite"):
        inverse_(-torch.eye(3))
    with pytest.raises(torch.linalg.LinAlgError, match="not positive definite"):
        solve(-torch.eye(3), torch.ones(2, 3))


@given(order=st.permutations(range(9)), size=st.integers(1, 9))
@settings(max_examples=20, deadline=None)
def test_rows_and_columns_come_in_the_order_asked_for(order, size):
    matrix, indices = torch.randn(9, 9), torch.tensor(order[:size])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matrices, "ROWS", 4)
        assert submatrix(matrix, indices).equal(matrix[indices][:, indices])
        assert submatrix(matrix, indices, dtype=torch.float64).equal(matrix[indices][:, indices].double())


@given(size=st.integers(1, 30), seed=st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_two_halves_share_a_place_and_do_not_touch_each_other(size, seed):
    torch.manual_seed(seed)
    place, halves = halves_of(2, size, Workspace(), torch.device("cpu"))
    factors = [torch.randn(7, size) for _ in range(2)]
    for factor, half in zip(factors, halves, strict=True):
        for rows in factor.split(4):
            half.add_product(rows)
    products = [factor.T @ factor for factor in factors]
    for half, product in zip(halves, products, strict=True):
        found = full_sum([half], Workspace())
        assert found.equal(found.T) and found.diagonal().equal(half.place.diagonal())
        torch.testing.assert_close(found, product, rtol=1e-4, atol=1e-4)
    assert full_sum(halves, Workspace()).equal(sum(full_sum([half], Workspace()) for half in halves))
    assert full_sum(halves[::-1], Workspace()).equal(full_sum(halves, Workspace()))
    assert place.numel() <= size**2 * 9 / 8 + size * 8


def test_least_squares_are_the_same_on_the_disk(tmp_path):
    generator, kept, found = torch.Generator().manual_seed(0), torch.arange(0, 12, 2), []
    weight, inputs = torch.randn(5, 12, generator=generator), torch.randn(60, 12, generator=generator)
    for workspace in (Workspace(), Workspace(tmp_path), Workspace(tmp_path, spare=1 << 20)):
        folds = [LeastSquares(weight, workspace) for _ in range(2)]
        for fold, rows in zip(folds, inputs.split(30), strict=True):
            fold.add(rows, rows @ weight.T, torch.ones(30))
        some = [fold.restricted(kept) for fold in folds]
        fit, both = best_fit(some, 0.3), some[0].joined(some[1])
        found.append((fit, solve(*both.damped(fit.damping, fit.share), workspace=workspace)[0]))
    for fit, weights in found[1:]:
        assert fit == found[0][0] and weights.equal(found[0][1])


def test_what_is_worked_on_is_in_spare_memory_if_it_fits(tmp_path, monkeypatch):
    made = []
    empty = Workspace.empty

    def noted(workspace, shape, *more):
        made.append(tuple(shape))
        return empty(workspace, shape, *more)

    monkeypatch.setattr(Workspace, "empty", noted)
    workspace = Workspace(tmp_path, spare=48)
    assert workspace.scratch((3, 4)).shape == (3, 4) and made == []
    assert workspace.scratch((3, 5)).shape == (3, 5) and made == [(3, 5)]
    assert workspace.scratch((3, 4), torch.float64).dtype == torch.float64 and made[1:] == [(3, 4)]


def test_a_tensor_on_the_disk_leaves_no_file(tmp_path):
    workspace = Workspace(tmp_path)
    tensor = workspace.zeros((3, 4), torch.bfloat16)
    assert tensor.dtype == torch.bfloat16 and not tensor.any() and not list(tmp_path.iterdir())
    tensor[1] = 2
    copied = workspace.copied(tensor)
    tensor[1] = 3
    assert copied[1].tolist() == [2.0] * 4 and workspace.empty((0, 5)).shape == (0, 5)


@pytest.mark.skipif(not OPEN_FILES.is_dir(), reason="a file needs a name here while it is made")
def test_a_file_has_no_name_even_while_it_is_made(tmp_path, monkeypatch):
    """A run may be killed just then."""
    made, there = torch.from_file, []

    def look(*arguments, **options):
        there.extend(tmp_path.iterdir())
        return made(*arguments, **options)

    monkeypatch.setattr(torch, "from_file", look)
    assert not Workspace(tmp_path).zeros((3, 4)).any() and not there


def test_a_tensor_stays_where_it_is_unless_there_is_a_folder(tmp_path):
    tensor = torch.ones(2)
    assert Workspace().stored(tensor) is tensor
    moved = Workspace(tmp_path).stored(tensor)
    assert moved.equal(tensor) and moved.data_ptr() != tensor.data_ptr()


def test_a_full_disk_is_found_before_anything_is_written(tmp_path):
    with pytest.raises(FlabError, match=r"has no room for [\d,]+ MB"):
        Workspace(tmp_path).empty((1 << 50,))
    assert not list(tmp_path.iterdir())
