"""Laws of the losses."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import default_collate

from optimum_flab.measuring.divergence import predicting
from optimum_flab.recovery.encoding import IGNORED, Sequences, encode, pack_examples
from optimum_flab.recovery.instructions import Example
from optimum_flab.recovery.loss import divergence, top_divergence
from optimum_flab.recovery.trainer import RecoveryTrainer, Rows, predictions
from optimum_flab.texts.packing import pack

from ..conftest import byte_level_tokenizer, tiny_model


ROWS = 600


def logits(positions: int, vocabulary: int, seed: int, scale: float = 3.0) -> torch.Tensor:
    return torch.randn(positions, vocabulary, generator=torch.Generator().manual_seed(seed)) * scale


@settings(max_examples=40, deadline=None)
@given(vocabulary=st.integers(2, 60), share=st.floats(0.01, 1), seed=st.integers(0, 10**6))
def test_a_cached_teacher_never_claims_more_than_the_whole_divergence(vocabulary, share, seed):
    student, teacher = logits(5, vocabulary, seed), logits(5, vocabulary, seed + 1).log_softmax(dim=-1)
    top = teacher.topk(max(1, round(share * vocabulary)))
    whole, part = divergence(student, teacher), top_divergence(student, top.values, top.indices)
    # the mass of the tokens left out is a difference of numbers near one
    assert (part <= 1.03 * whole + 1e-2).all()
    assert (part >= -1e-3).all()


@settings(max_examples=20, deadline=None)
@given(vocabulary=st.integers(2, 60), seed=st.integers(0, 10**6))
def test_with_all_tokens_it_is_the_whole_divergence_and_has_its_gradient(vocabulary, seed):
    teacher = logits(4, vocabulary, seed + 1).log_softmax(dim=-1)
    top = teacher.topk(vocabulary)
    gradients = []
    for loss in (divergence, lambda z, t: top_divergence(z, top.values, top.indices)):
        student = logits(4, vocabulary, seed).requires_grad_(True)
        value = loss(student, teacher).sum()
        value.backward()
        gradients.append((value.detach(), student.grad))
    torch.testing.assert_close(gradients[0][0], gradients[1][0], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(gradients[0][1], gradients[1][1], atol=1e-3, rtol=1e-3)


def test_the_divergence_of_a_model_from_itself_is_zero():
    student = logits(6, 20, 0)
    teacher = student.log_softmax(dim=-1)
    top = teacher.topk(5)
    assert divergence(student, teacher).abs().max() < 1e-5
    assert top_divergence(student, top.values, top.indices).abs().max() < 1e-5


def test_rows_that_only_pad_the_vocabulary_count_as_lost():
    teacher = logits(3, 8, 0).log_softmax(dim=-1)
    student = torch.cat([teacher, teacher.logsumexp(dim=-1, keepdim=True)], dim=-1)  # the padding has half of all
    torch.testing.assert_close(divergence(student, teacher), torch.full((3,), 2.0).log())


def test_the_gradient_is_finite_where_the_teacher_is_certain():
    student = logits(2, 10, 0).requires_grad_(True)
    values, ids = torch.tensor([[0.0], [-1e-7]]), torch.tensor([[3], [4]])
    top_divergence(student, values, ids).sum().backward()
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("scale", [1.0, 50.0])
def test_the_gradient_is_finite_where_the_student_is_certain(scale):
    student = (logits(4, 10, 0) * scale).requires_grad_(True)
    top = logits(4, 10, 1).log_softmax(dim=-1).topk(3)
    top_divergence(student, top.values, top.indices).sum().backward()
    assert torch.isfinite(student.grad).all()


class Resident:
    """A dense model that finds all tokens alike."""

    def log_probabilities(self, input_ids, position_ids, distilled):
        return torch.full((int(distilled.sum()), ROWS), 1 / ROWS).log()


@pytest.mark.parametrize("batch", [1, 2, 6])
@pytest.mark.parametrize("distillation", [0.0, 1.0])
def test_a_position_counts_the_same_in_whichever_row_and_batch_it_is(distillation, batch):
    answers = ["    pass\n", "    return 1 + 2 + 3 + 4\n", "    x = 1\n    return x\n"] * 2
    examples = [Example(f"x#{n}", (("user", "def f():\n"),), answer, True) for n, answer in enumerate(answers)]
    packed, _ = pack_examples(encode(examples, byte_level_tokenizer(ROWS), chat=False), 64, True)
    rows, found = Rows(packed), logits(6 * 64, ROWS, 0).unflatten(0, (6, 64))
    trainer = SimpleNamespace(distillation=distillation, dense=Resident())
    losses = [
        RecoveryTrainer.loss(
            trainer, found[start : start + batch], default_collate([rows[n] for n in range(start, start + batch)])
        )
        for start in range(0, 6, batch)
    ]
    if distillation:
        costs = divergence(
            found[predicting(packed.tokens)], Resident().log_probabilities(0, 0, predicting(packed.tokens))
        )
    else:
        labelled = packed.labels != -100
        costs = torch.nn.functional.cross_entropy(found[labelled], packed.labels[labelled], reduction="none")
    torch.testing.assert_close(torch.stack(losses).mean(), costs.mean())


def test_the_gradient_is_that_of_a_row_at_a_time_however_many_a_pass_reads():
    generator = torch.Generator().manual_seed(0)
    documents = [torch.randint(1, 300, (n,), generator=generator).tolist() for n in (9, 12, 20, 5, 7, 16)]
    tokens = pack(documents, 24, 0)
    labels = tokens.input_ids.roll(-1, dims=1).masked_fill(~predicting(tokens), IGNORED)
    rows = Rows(Sequences(tokens, labels))
    assert len(rows) == 4
    vocabulary = tiny_model("qwen2").config.vocab_size

    def gradients(at_once):
        model = tiny_model("qwen2").requires_grad_(True)
        trainer = SimpleNamespace(distillation=0.5, dense=None)
        for start in range(0, len(rows), at_once):
            inputs = default_collate([rows[row] for row in range(start, start + at_once)])
            places = torch.arange(start, start + at_once).view(-1, 1, 1) + torch.arange(24).view(1, -1, 1)
            inputs["teacher_ids"] = (places * 7 + torch.arange(8)) % vocabulary
            inputs["teacher_values"] = torch.arange(8.0).log_softmax(-1).expand(at_once, 24, 8) - 0.1
            loss = RecoveryTrainer.loss(trainer, predictions(model, inputs).logits, inputs)
            (loss * at_once / len(rows)).backward()  # as accumulation does
        return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])

    one = gradients(1)
    for at_once in (2, 4):
        assert (gradients(at_once) - one).norm() < 1e-4 * one.norm()
