"""Symmetric matrices too large to have twice: factored, inverted and cut where they are."""

from __future__ import annotations

import torch
from scipy.linalg import get_lapack_funcs

from .workspace import Workspace


ROWS = 1024  # of a matrix that are copied at once


def cholesky_(matrix: torch.Tensor) -> bool:
    """Puts the lower Cholesky factor of a symmetric matrix in its place; what is above its diagonal stays.

    On the CPU by LAPACK's `potrf`, which needs no memory (torch factors a copy).

    Args:
        matrix (`torch.Tensor` of shape `(size, size)`): contiguous, float32 or float64.

    Returns:
        `bool`: whether it is positive definite in its dtype; if not, what was below its diagonal is lost.
    """
    if matrix.device.type != "cpu":
        factor, failed = torch.linalg.cholesky_ex(matrix)
        matrix.copy_(factor.tril() + matrix.triu(1))
        return not failed
    return _in_place("potrf", matrix, overwrite_a=True, clean=False) == 0


def inverse_(matrix: torch.Tensor, workspace: Workspace | None = None) -> torch.Tensor:
    """Puts the inverse of a symmetric, positive definite matrix in its place, by LAPACK's `potrf` and `potri`; worked
    out in float64, in a workspace, where its own dtype is too coarse.

    Args:
        matrix (`torch.Tensor` of shape `(size, size)`): contiguous.

    Raises:
        `torch.linalg.LinAlgError`: it is not positive definite.
    """
    diagonal = matrix.diagonal().clone()
    if not cholesky_(matrix):
        matrix.diagonal().copy_(diagonal)
        _mirror(matrix.T)
        if matrix.dtype == torch.float64:
            raise torch.linalg.LinAlgError("the matrix is not positive definite")
        finer = (workspace or Workspace()).empty(matrix.shape, torch.float64, matrix.device)
        return matrix.copy_(inverse_(finer.copy_(matrix), workspace))
    if matrix.device.type != "cpu":
        return matrix.copy_(torch.cholesky_inverse(matrix.tril()))
    _in_place("potri", matrix, overwrite_c=True)
    return _mirror(matrix)


def selected(
    matrix: torch.Tensor, indices: torch.Tensor, workspace: Workspace | None = None, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """Rows and columns of a square matrix, in another dtype if one is named.

    Args:
        indices (`torch.Tensor` of shape `(size,)`): which, in this order.
    """
    found = (workspace or Workspace()).empty((len(indices), len(indices)), dtype or matrix.dtype, matrix.device)
    for start in range(0, len(indices), ROWS):
        rows = indices[start : start + ROWS]
        found[start : start + ROWS] = matrix[rows][:, indices]
    return found


def _in_place(function: str, matrix: torch.Tensor, **options: bool) -> int:
    """Runs a function of LAPACK on the lower triangle of a matrix, and gives what it says of its success.

    Args:
        options: of the function, so that scipy hands it the matrix itself.
    """
    columns = matrix.numpy().T  # the upper triangle in Fortran's order
    (call,) = get_lapack_funcs([function], [columns])
    result, failed = call(columns, lower=False, **options)
    if result.ctypes.data != columns.ctypes.data:
        raise RuntimeError(f"scipy gave LAPACK's {function} a copy of the matrix")
    return failed


def _mirror(matrix: torch.Tensor) -> torch.Tensor:
    """Copies what is below the diagonal to above it."""
    for start in range(0, len(matrix), ROWS):
        stop = start + ROWS
        square = matrix[start:stop, start:stop]
        square.copy_(square.tril() + square.tril(-1).T)
        matrix[start:stop, stop:] = matrix[stop:, start:stop].T
    return matrix
