"""Symmetric matrices: stored by half, and factored, inverted and sliced in place.

Block by block, in LAPACK's order (`potrf`, `trtri`, `lauum`): torch's own functions factor and invert copies, in twice
the time, and OpenBLAS, which scipy calls in place, ends with a segmentation fault on matrices of some 17,000 rows in
float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .workspace import Workspace


ROWS = 512  # of a block
COLUMN_BLOCKS = 8  # a symmetric matrix is summed and stored by blocks on one side of its diagonal, 56% of it


@dataclass(eq=False)
class HalfMatrix:
    """A symmetric matrix of which the blocks on its diagonal and on one side of it are stored.

    Args:
        place (`torch.Tensor` of shape `(size, size)`): where; the other blocks of it are not touched.
        below (`bool`): whether the side is the one below the diagonal.
    """

    place: torch.Tensor
    below: bool = False

    def columns(self, block: slice) -> slice:
        """The columns that are stored of the rows of a block: from the diagonal on, or up to it."""
        return slice(0, block.stop) if self.below else slice(block.start, None)

    def add_product(self, factor: torch.Tensor) -> None:
        """Adds `factorᵀ factor`, for a factor of shape `(rows, size)`."""
        for block in column_blocks(len(self.place)):
            columns = self.columns(block)
            self.place[block, columns].addmm_(factor[:, block].T, factor[:, columns])


def column_blocks(size: int) -> list[slice]:
    """The rows and columns of each block of a [`HalfMatrix`]."""
    width = -(-size // COLUMN_BLOCKS)
    return [slice(start, min(start + width, size)) for start in range(0, size, width)]


def halves_of(
    number: int, size: int, workspace: Workspace, device: torch.device
) -> tuple[torch.Tensor, list[HalfMatrix]]:
    """One or two symmetric matrices of zeros in one tensor of little more than the size of one: the first above a
    diagonal of blocks, the second below it, and moved down by a block."""
    down = column_blocks(size)[0].stop
    place = workspace.zeros((size + down * (number - 1), size), device=device)
    return place, [HalfMatrix(place[:size]), HalfMatrix(place[down:], below=True)][:number]


def full_sum(halves: Sequence[HalfMatrix], workspace: Workspace) -> torch.Tensor:
    """The sum of symmetric matrices, a new one in a workspace with all its rows and columns."""
    halves = sorted(halves, key=lambda half: half.below)  # a block is added to once it was copied
    place = halves[0].place
    full = workspace.scratch(place.shape, place.dtype, place.device)
    for block in column_blocks(len(full)):  # files are read from the beginning to the end
        for half in halves:
            columns = half.columns(block)
            stored = half.place[block, columns]
            above, values = (full[columns, block], stored.T) if half.below else (full[block, columns], stored)
            if half is halves[0]:
                above.copy_(values)
            else:
                above.add_(values)
    mirror_upper_(full)
    return full


def cholesky_(matrix: torch.Tensor) -> bool:
    """Replaces a symmetric matrix by its lower Cholesky factor; what is above its diagonal stays.

    Args:
        matrix (`torch.Tensor` of shape `(size, size)`): float32 or float64.

    Returns:
        `bool`: whether it is positive definite in its dtype; if not, what was below its diagonal is lost.
    """
    blocks = _blocks(len(matrix))
    for number, block in enumerate(blocks):
        factor, failed = torch.linalg.cholesky_ex(matrix[block, block])
        if failed:
            return False
        _replace_lower(matrix[block, block], factor)
        panel = matrix[block.stop :, block]
        panel.copy_(torch.linalg.solve_triangular(factor.T, panel, upper=True, left=False))
        for rows in blocks[number + 1 :]:
            between = slice(block.stop, rows.start)
            matrix[rows, between].addmm_(matrix[rows, block], matrix[between, block].T, alpha=-1)
            square = matrix[rows, rows]
            _replace_lower(square, square - matrix[rows, block] @ matrix[rows, block].T)
    return True


def inverse_(matrix: torch.Tensor, workspace: Workspace | None = None) -> torch.Tensor:
    """Replaces a symmetric, positive definite matrix by its inverse, computed in float64, in a workspace, if its own
    dtype is too coarse.

    Args:
        matrix (`torch.Tensor` of shape `(size, size)`): float32 or float64.

    Raises:
        `torch.linalg.LinAlgError`: it is not positive definite.
    """
    diagonal = matrix.diagonal().clone()
    if not cholesky_(matrix):
        matrix.diagonal().copy_(diagonal)
        mirror_upper_(matrix)
        if matrix.dtype == torch.float64:
            raise torch.linalg.LinAlgError("the matrix is not positive definite")
        finer = (workspace or Workspace()).empty(matrix.shape, torch.float64, matrix.device)
        return matrix.copy_(inverse_(finer.copy_(matrix), workspace))
    _invert_lower(matrix)
    _multiply_lower(matrix)
    mirror_upper_(matrix.T)
    return matrix


def submatrix(
    matrix: torch.Tensor, indices: torch.Tensor, workspace: Workspace | None = None, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """Rows and columns of a square matrix, in another dtype if one is named.

    Args:
        indices (`torch.Tensor` of shape `(size,)`): the indices, in this order.
    """
    selection = (workspace or Workspace()).empty((len(indices), len(indices)), dtype or matrix.dtype, matrix.device)
    for start in range(0, len(indices), ROWS):
        rows = indices[start : start + ROWS]
        selection[start : start + ROWS] = matrix[rows][:, indices]
    return selection


def mirror_upper_(matrix: torch.Tensor) -> None:
    """Copies what is above the diagonal of a square matrix to below it."""
    for start in range(0, len(matrix), ROWS):
        stop = start + ROWS
        square = matrix[start:stop, start:stop]
        square.copy_(square.triu() + square.triu(1).T)
        matrix[stop:, start:stop] = matrix[start:stop, stop:].T


def _blocks(size: int) -> list[slice]:
    return [slice(start, min(start + ROWS, size)) for start in range(0, size, ROWS)]


def _replace_lower(square: torch.Tensor, lower: torch.Tensor) -> None:
    """Replaces the lower half of a matrix by that of another."""
    square.copy_(lower.tril() + square.triu(1))


def _invert_lower(matrix: torch.Tensor) -> None:
    """Replaces the lower half of a matrix by its inverse."""
    blocks = _blocks(len(matrix))
    for number, block in reversed(list(enumerate(blocks))):
        factor = matrix[block, block].tril()
        inverted = torch.linalg.solve_triangular(
            factor, torch.eye(len(factor), dtype=factor.dtype, device=factor.device), upper=False
        )
        for rows in reversed(blocks[number + 1 :]):  # from below: each needs those above it as they were
            between = slice(block.stop, rows.start)
            product = matrix[rows, rows].tril() @ matrix[rows, block]
            product.addmm_(matrix[rows, between], matrix[between, block])
            matrix[rows, block] = -(product @ inverted)
        _replace_lower(matrix[block, block], inverted)


def _multiply_lower(matrix: torch.Tensor) -> None:
    """Replaces `M`, the lower half of a matrix, by the lower half of `MᵀM`."""
    for block in _blocks(len(matrix)):
        own, below = matrix[block, block].tril(), matrix[block.stop :, block]
        left = own.T @ matrix[block, : block.start]
        left.addmm_(below.T, matrix[block.stop :, : block.start])
        matrix[block, : block.start] = left
        _replace_lower(matrix[block, block], own.T @ own + below.T @ below)
