"""Counts the multiplications and additions of matrix products while torch computes them.

Torch's own counter (`torch.utils.flop_counter`) follows modules as well, which fails under `torch.autograd.grad`, and
has no formula for products in place, for the attention of a CPU and for triangular matrices.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch

from ..utils.compat import operations_seen


# by operation, which of its arguments is the left factor
LEFT_FACTOR = {
    "aten::mm": 0,
    "aten::bmm": 0,
    "aten::_grouped_mm": 0,
    "mkldnn::_linear_pointwise": 0,
    "aten::addmm": 1,
    "aten::addmm_": 1,
    "aten::baddbmm": 1,
    "aten::baddbmm_": 1,
}
# of the arguments; attention in full although half of it is masked, its backward pass as the five products that it is
OTHERS: dict[str, Callable[..., int]] = {
    "aten::_scaled_dot_product_flash_attention_for_cpu": lambda query, key, *_: 4 * query.numel() * key.shape[-2],
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": (
        lambda gradient, query, key, *_: 10 * query.numel() * key.shape[-2]
    ),
    "aten::linalg_cholesky_ex": lambda matrix, *_: matrix.numel() * matrix.shape[-1] // 3,
    "aten::linalg_solve_triangular": lambda matrix, right, *_: right.numel() * matrix.shape[-1],
    "aten::_linalg_solve_ex": lambda matrix, right, *_: 2 * matrix.shape[-1] * (matrix.numel() // 3 + right.numel()),
}


def counted_products(flop: Counter[str]) -> AbstractContextManager[None]:
    """Within this context the products that torch computes in this thread are added to `flop`, by the dtype of their
    result (`"float32"`)."""

    def see(operation: str, arguments: tuple[Any, ...], result: Any) -> None:
        result = result if isinstance(result, torch.Tensor) else result[0]
        if operation in LEFT_FACTOR:
            number = 2 * result.numel() * arguments[LEFT_FACTOR[operation]].shape[-1]
        else:
            number = OTHERS[operation](*arguments)
        flop[str(result.dtype).removeprefix("torch.")] += number

    return operations_seen(see, LEFT_FACTOR.keys() | OTHERS.keys())
