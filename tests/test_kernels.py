"""Which library multiplies in float32 is decided by its error and its time, and results stay those of float32."""

import pytest
import torch

from optimum_flab.running.kernels import ONEDNN, PLAIN, Trial, is_better, prepare_kernels, tried


@pytest.fixture(autouse=True)
def as_before():
    yield
    torch.set_float32_matmul_precision(PLAIN)


@pytest.mark.parametrize(
    ("error", "seconds", "better"),
    [
        (2.5e-7, 1.0, True),
        (4e-7, 1.5, True),  # other sums, other rounding
        (2.5e-7, 1.6, False),  # a little faster: no reason to choose differently another time
        (2e-3, 0.5, False),  # factors in bfloat16
        (float("nan"), 0.5, False),
    ],
)
def test_another_library_is_taken_where_it_is_clearly_faster_and_as_exact(error, seconds, better):
    assert is_better(Trial(2.5e-7, 2.0), Trial(error, seconds)) is better


def test_products_are_tried_and_the_choice_is_that_of_the_trials():
    plain, other = tried()
    assert 1e-8 < plain.error < 1e-6 and other.error > 0
    assert plain.seconds > 0 and other.seconds > 0
    prepare_kernels(torch.device("cpu"))
    assert torch.get_float32_matmul_precision() == (ONEDNN if is_better(plain, other) else PLAIN)
    left, right = torch.randn(96, 64), torch.randn(64, 80)
    exact = left.double() @ right.double()
    assert (left @ right - exact).norm() < 1e-6 * exact.norm()


def test_processes_choose_alike_and_other_devices_as_torch_does(monkeypatch):
    class Others:
        def agree(self, is_so):
            assert is_so
            return False  # one of them has another processor

    monkeypatch.setattr("optimum_flab.running.kernels.tried", lambda: (Trial(1e-7, 2.0), Trial(1e-7, 1.0)))
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    prepare_kernels(cpu)
    assert torch.get_float32_matmul_precision() == ONEDNN
    prepare_kernels(cpu, Others())
    assert torch.get_float32_matmul_precision() == PLAIN
    prepare_kernels(cpu)
    prepare_kernels(cuda)
    assert torch.get_float32_matmul_precision() == PLAIN
