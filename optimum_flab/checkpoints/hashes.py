"""Identifies a model by its weights, whichever files or memory they are in."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping

import torch

from ..tensors.lazy import WrittenTensors
from ..utils.compat import new_model
from ..utils.errors import FlabError
from .loading import LoadedModel


def weights_hash(
    weights: torch.nn.Module | Mapping[str, torch.Tensor], dtypes: Mapping[str, torch.dtype] | None = None
) -> str:
    """Hex SHA-256 over names, dtypes, shapes and bytes of weights, in the order of their names.

    A model's tensor with several names (a tied output head) counts once, see [`~tensors.lazy.WrittenTensors`], so that
    a model and the checkpoint saved from it agree.

    Args:
        weights (`nn.Module` or `Mapping[str, torch.Tensor]`): a model, or its tensors by name, each once.
        dtypes (`Mapping[str, torch.dtype]`, *optional*): hash them as if they were in these types, see
            [`dense_hash`].

    Raises:
        [`FlabError`]: a weight is not in memory, or holds NaN or infinite numbers.
    """
    tensors = WrittenTensors(weights) if isinstance(weights, torch.nn.Module) else weights
    digest = hashlib.sha256()
    for name in sorted(tensors, reverse=True):
        tensor = tensors[name].detach()
        if tensor.is_meta:
            raise FlabError(f"weight {name!r} is not in memory")
        if tensor.numel() and not all(end.isfinite() for end in tensor.aminmax()):
            remedy = "load it in float32 or bfloat16" if tensor.dtype == torch.float16 else "download it again"
            raise FlabError(f"weight {name!r} of the model holds NaN or infinite numbers; {remedy}")
        if dtypes is not None:
            tensor = tensor.to(dtypes[name])
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def dense_hash(dense: LoadedModel) -> str:
    """[`weights_hash`] of a model in the dtype that it is stored in, so that it has the same hash whatever it is
    computed in. What its class keeps in float32 regardless (some routers) is hashed as float32."""
    with torch.device("meta"):
        stored_model = new_model(type(dense.model), copy.deepcopy(dense.model.config), dtype=dense.storage_dtype)
    stored_model.tie_weights()
    dtypes = {name: outline.dtype for name, outline in WrittenTensors(stored_model).outlines.items()}
    return weights_hash(WrittenTensors(dense.model) if dense.stored is None else dense.stored.as_saved(), dtypes)
