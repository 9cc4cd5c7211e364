"""The emulated devices refuse and count what they should: faults that are planted are found."""

from __future__ import annotations

import copy
import gc
import io

import pytest
import torch
from torch import nn
from transformers.models.llama.modeling_llama import LlamaMLP

from optimum_flab.utils.errors import FlabError

from ..conftest import saved
from .conftest import CARDS, EMULATED, watched
from .test_pruning import MODELS, prune, stored


pytestmark = pytest.mark.skipif(EMULATED is None, reason="of emulated devices only")
PLACES, ALL_PLACES = 12, 100  # at which a tensor is left on the CPU


def on_card(*shape: int, card: int = 0) -> torch.Tensor:
    return torch.ones(shape, device=CARDS[card])


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda: on_card(2) + torch.ones(2), "cuda:0 and cpu"),
        (lambda: on_card(2) + on_card(2, card=1), "cuda:0 and cuda:1"),
        (lambda: on_card(2) + on_card(card=1), "cuda:0 and cuda:1"),  # even of one number
        (lambda: on_card(2) + torch.ones(2, device="meta"), "cuda:0 and meta"),
        (lambda: torch.ones(2)[on_card(1).long()], "cuda:0 and cpu"),
        (lambda: torch.add(on_card(), on_card(), out=torch.ones(())), "a result on the CPU"),
        (lambda: torch.rand(2, device=CARDS[0], generator=torch.Generator()), "'cuda' device type for generator"),
        (lambda: on_card(2).numpy(), "not supported"),
        (lambda: on_card(2).to("cuda:2"), "invalid device ordinal"),
    ],
)
def test_what_cuda_refuses_is_refused(fault, message):
    with pytest.raises(RuntimeError, match=message):
        fault()


def test_what_cuda_takes_is_taken():
    assert (on_card(2) + torch.tensor(1.0)).tolist() == [2, 2]  # a number of the CPU
    assert on_card(2)[torch.tensor([0])].device == CARDS[0]  # indices of the CPU
    assert torch.tensor([1, 2], device=CARDS[1]).to(CARDS[0]).device == CARDS[0]
    with torch.cuda.device(1):
        assert torch.ones(2).to("cuda").device == torch.ones(2, device="cuda").device == CARDS[1]


def test_memory_is_counted_by_storage_and_ends():
    with watched() as use:
        whole = on_card(1000)
        parts = [whole[:10], whole.view(10, 100), whole.detach()]
        del whole
        gc.collect()
        assert torch.cuda.memory_allocated() >= 4000
        del parts
    assert (use.peak[CARDS[0]], use.left) == (4000, 0)
    torch.cuda.set_per_process_memory_fraction(0.0)
    try:
        with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
            on_card(1000)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_what_waits_and_what_travels_is_counted_by_line():
    with watched() as use:
        tensor = torch.ones(10).to(CARDS[0])
        tensor.sum().item()
        tensor[tensor > 0].cpu()
    assert list(use.taken_there.values()) == list(use.taken_back.values()) == [40]
    assert list(use.synchronisations.values()) == [1, 2]
    assert all(line.startswith("test_emulated.py:") for line in use.synchronisations)


def test_a_model_is_trained_copied_and_kept_with_its_shared_weights():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    before = model[0].weight.detach().clone()
    model.to(CARDS[0])
    optimizer = torch.optim.AdamW(model.parameters())
    nn.functional.cross_entropy(model(on_card(2, 4)), torch.tensor([1, 2], device=CARDS[0])).backward()
    optimizer.step()
    kept = io.BytesIO()
    torch.save(model.state_dict(), kept)
    kept.seek(0)
    for one in (model, copy.deepcopy(model)):
        assert one[0].weight is one[1].weight and one[0].weight.device == CARDS[0]
        assert not torch.equal(one[0].weight.cpu(), before)
    assert torch.equal(torch.load(kept)["0.weight"], model[0].weight)


# --- planted faults --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """A model in which there is no fault, and the lines that make tensors on the device when it is pruned."""
    folder = tmp_path_factory.mktemp("dense")
    saved(MODELS["llama"](), folder / "dense")
    return folder / "dense", list(prune("llama", folder, "there", stored(folder, CARDS[0])).made)


@pytest.fixture
def pruned(dense, tmp_path):
    """Prunes the model, as often as it is called, with all that `test_pruning.py` asserts."""

    def prune_anew():
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        (folder / "dense").symlink_to(dense[0])
        return prune("llama", folder, "there", stored(folder, CARDS[0]))

    return prune_anew


def test_tensors_that_are_left_on_the_cpu_are_found(dense, pruned, monkeypatch, request):
    """One place after another forgets the device. Some may: indices of the CPU are taken, too."""
    most = ALL_PLACES if request.config.getoption("--thorough") else PLACES
    found = set()
    for line in dense[1]:
        if len(found) == most:
            break
        monkeypatch.setattr(EMULATED, "FORGOTTEN", line)
        try:
            pruned()
        except (AssertionError, FlabError, RuntimeError):
            found.add(line)
    assert len(found) >= PLACES, found


@pytest.mark.parametrize(
    "fault",
    [
        [].append,  # a leak
        lambda hidden: hidden.cpu().to(hidden.device),  # a way through the host
        lambda hidden: [row.sum().item() for row in hidden[0]],  # numbers that are read one by one
    ],
    ids=["a-leak", "a-copy-through-the-host", "an-item-in-a-loop"],
)
def test_faults_in_what_layers_compute_are_found(pruned, monkeypatch, fault):
    forward = LlamaMLP.forward
    monkeypatch.setattr(LlamaMLP, "forward", lambda layer, hidden: (fault(hidden), forward(layer, hidden))[1])
    with pytest.raises(AssertionError):
        pruned()
