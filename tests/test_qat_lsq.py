"""LSQ's hand-written gradient against a composition of ordinary operations, and the paper's values."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from helpers.qat.lsq import initial_step, least_squares_step, lsq
from helpers.quantization import QuantizationParameters, fake_quantize, symmetric

settings.register_profile("course", deadline=None)
settings.load_profile("course")


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def composed(v: Tensor, step: Tensor, q_n: int, q_p: int, gradient_scale: float) -> Tensor:
    """The paper's appendix: autograd through clamp, with rounding and the gradient scale detached."""
    scaled = step * gradient_scale
    step = (step - scaled).detach() + scaled
    clipped = (v / step).clamp(-q_n, q_p)
    return ((clipped.round() - clipped).detach() + clipped) * step


@given(
    st.sampled_from([(1, 1), (2, 1), (8, 7), (7, 7), (0, 3), (0, 255)]),
    st.floats(0.02, 3.0),
    st.booleans(),
    st.integers(0, 9999),
)
def test_equals_the_composition(
    bounds: tuple[int, int], size: float, channels: bool, seed: int
) -> None:
    v = gaussian(5, 40, seed=seed)
    step = size * (gaussian(5, 1, seed=seed + 1).abs() + 0.1) if channels else torch.tensor(size)
    step = step.double()
    upstream = gaussian(5, 40, seed=seed + 2)
    gradient_scale = 1 / math.sqrt((40 if channels else 200) * bounds[1])
    results = []
    for function in (lsq, composed):
        a, s = v.clone().requires_grad_(), step.clone().requires_grad_()
        out = function(a, s, *bounds, gradient_scale=gradient_scale)
        out.backward(upstream)
        results.append((out.detach(), a.grad, s.grad))
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-12)


def test_the_formula_value_by_value() -> None:
    v = torch.tensor([-9.0, -3.6, -1.2, 0.3, 0.7, 2.9, 3.25, 50.0])
    for i, expected in enumerate([-4, 3.6 - 4, 0.2, -0.3, 0.3, 0.1, 3, 3]):
        step = torch.tensor(1.0, requires_grad=True)
        one = v[i : i + 1].clone().requires_grad_()
        lsq(one, step, 4, 3, gradient_scale=1.0).sum().backward()
        assert float(step.grad) == pytest.approx(expected, abs=1e-6), float(v[i])
        assert float(one.grad) == (0.0 if float(v[i]) in (-9.0, 3.25, 50.0) else 1.0)


def test_equals_torchs_learnable_quantizer_inside_and_not_at_the_edges() -> None:
    """torch has round(v/s) - v/s in the half steps beyond the ends, where LSQ has -q_n and q_p."""
    v, step = 3 * gaussian(4000, seed=4).float(), torch.tensor([0.37])
    gradients = {}
    for inside in (True, False):
        ratio = v / step
        chosen = v[(ratio > -3.5) & (ratio < 2.5)] if inside else v
        ours, theirs = step.clone().requires_grad_(), step.clone().requires_grad_()
        lsq(chosen, ours, 4, 3, gradient_scale=1.0).sum().backward()
        zero = torch.zeros(1, requires_grad=True)
        torch._fake_quantize_learnable_per_tensor_affine(
            chosen, theirs, zero, -4, 3
        ).sum().backward()
        gradients[inside] = (float(ours.grad), float(theirs.grad))
    assert gradients[True][0] == pytest.approx(gradients[True][1], rel=1e-3, abs=1e-2)
    assert abs(gradients[False][0] - gradients[False][1]) > 10


def test_the_default_gradient_scale() -> None:
    v = gaussian(3, 50)
    for step, shared in ((torch.full((3, 1), 0.4), 50), (torch.tensor(0.4), 150)):
        scaled, plain = (step.double().clone().requires_grad_() for _ in range(2))
        lsq(v, scaled, 8, 7).sum().backward()
        lsq(v, plain, 8, 7, gradient_scale=1.0).sum().backward()
        assert torch.allclose(scaled.grad, plain.grad / math.sqrt(shared * 7))


def test_the_step_of_the_paper() -> None:
    v = torch.tensor([[1.0, -3.0], [0.5, 0.5], [0.0, 0.0]])
    assert float(initial_step(v, 4)) == pytest.approx(2 * (5 / 6) / 2)
    assert initial_step(v, 4, axis=0).tolist() == [2.0, 0.5, 2.0]  # the channel of zeros: largest
    assert initial_step(torch.zeros(2, 2), 7, axis=0).tolist() == [1.0, 1.0]
    assert initial_step(v, 4, axis=1).shape == (2,)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_step_of_least_squares(bits: int) -> None:
    v = gaussian(6, 3, 3, 3, seed=bits).float()
    step = least_squares_step(v, bits, axis=0)
    assert torch.equal(step, torch.stack([least_squares_step(row, bits) for row in v]))
    q = 2 ** (bits - 1) - 1
    largest = symmetric(v, bits, axis=0).scale
    assert (step <= largest + 1e-12).all()
    errors = []
    for part in torch.linspace(0.05, 1, 400):
        p = QuantizationParameters(largest * part, torch.tensor(0), -q, q, 0)
        errors.append((fake_quantize(v, p) - v).square().flatten(1).sum(1))
    ours = QuantizationParameters(step, torch.tensor(0), -q, q, 0)
    error = (fake_quantize(v, ours) - v).square().flatten(1).sum(1)
    assert (error <= 1.1 * torch.stack(errors).amin(0)).all()  # its 20 candidates come this close
    if bits <= 3:
        assert (error < 0.8 * errors[-1]).any()  # errors[-1]: the largest weight sets the step
    assert least_squares_step(torch.zeros(2, 3), bits, axis=0).tolist() == [1.0, 1.0]


def test_learning_finds_the_step_of_least_error() -> None:
    v, step = gaussian(2000), torch.tensor(1.5, dtype=torch.float64, requires_grad=True)

    def error(step: Tensor) -> Tensor:
        return (lsq(v, step, 4, 3, gradient_scale=1.0) - v).square().mean()

    optimizer = torch.optim.SGD([step], lr=0.02)
    for _ in range(300):
        optimizer.zero_grad()
        error(step).backward()
        optimizer.step()
    candidates = torch.linspace(0.2, 1.5, 261, dtype=torch.float64)
    best = candidates[int(torch.stack([error(s) for s in candidates]).argmin())]
    assert abs(step.item() - best.item()) < 0.1, (step, best)
    assert error(step.detach()) < 1.03 * error(best) < error(torch.tensor(1.5)) / 3


@pytest.mark.parametrize(
    ("step", "q_n", "q_p", "message"),
    [
        (0.0, 4, 3, "step must be positive"),
        (-0.1, 4, 3, "step must be positive"),
        (1.0, -1, 3, "q_n must be at least 0"),
        (1.0, 0, 0, "q_p at least 1"),
    ],
)
def test_bad_arguments(step: float, q_n: int, q_p: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lsq(torch.ones(2), torch.tensor(step), q_n, q_p)
