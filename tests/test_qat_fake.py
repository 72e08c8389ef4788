"""Fake quantization with a gradient against torch's own, and against the definition."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from helpers.qat.fake import fake_quantize_ste, round_ste, sign_ste

settings.register_profile("course", deadline=None)
settings.load_profile("course")


def values(count: int, spread: float, seed: int) -> Tensor:
    return spread * torch.randn(count, generator=torch.Generator().manual_seed(seed))


def away_from_ties(x: Tensor, scale: Tensor) -> Tensor:
    """torch multiplies by 1/scale where we divide: they may differ where x/scale is at a half."""
    ratio = (x / scale).double()
    return ((ratio - ratio.floor() - 0.5).abs() > 1e-4) & (ratio.abs() < 1e4)


@given(st.integers(2, 8), st.floats(1e-4, 10.0), st.integers(-128, 127), st.integers(0, 9999))
def test_per_tensor_equals_torch_forward_and_gradient(
    bits: int, scale: float, zero_point: int, seed: int
) -> None:
    qmin, qmax = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    zero_point = min(max(zero_point, qmin), qmax)
    s = torch.tensor(scale)
    x = values(300, scale * 2**bits, seed)
    x = x[away_from_ties(x, s)]
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y = fake_quantize_ste(ours, s, torch.tensor(zero_point), qmin, qmax)
    z = torch.fake_quantize_per_tensor_affine(theirs, float(s), zero_point, qmin, qmax)
    assert torch.equal(y, z)
    upstream = values(len(x), 1.0, seed + 1)
    y.backward(upstream)
    z.backward(upstream)
    assert torch.equal(ours.grad, theirs.grad)


@pytest.mark.parametrize("axis", [0, 1])
def test_per_channel_equals_torch_forward_and_gradient(axis: int) -> None:
    x = values(4 * 4 * 50, 8.0, 3).reshape(4, 4, 50)
    shape = [1, 1, 1]
    shape[axis] = 4
    scale = torch.tensor([0.5, 0.013, 1.0, 0.3])
    zero_point = torch.tensor([0, -3, 7, -8], dtype=torch.int32)
    x = torch.where(away_from_ties(x, scale.reshape(shape)), x, 0.0)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y = fake_quantize_ste(ours, scale.reshape(shape), zero_point.reshape(shape), -8, 7)
    z = torch.fake_quantize_per_channel_affine(theirs, scale, zero_point, axis, -8, 7)
    assert torch.equal(y, z)
    y.square().sum().backward()
    z.square().sum().backward()
    assert torch.equal(ours.grad, theirs.grad)
    assert 0 < (ours.grad == 0).double().mean() < 1


def test_the_mask_is_on_the_rounded_code() -> None:
    x = torch.tensor([-128.6, -128.5, -128.0, 0.3, 127.0, 127.49, 127.5, 400.0], requires_grad=True)
    y = fake_quantize_ste(x, torch.tensor(1.0), torch.tensor(0), -128, 127)
    y.sum().backward()
    assert y.tolist() == [-128, -128, -128, 0, 127, 127, 127, 127]
    assert x.grad.tolist() == [0, 1, 1, 1, 1, 1, 0, 0]


def test_ties_go_to_even_before_the_zero_point() -> None:
    x = torch.tensor([-0.75, -0.25, 0.25, 0.75, 1.25, 1.75])
    y = fake_quantize_ste(x, torch.tensor(0.5), torch.tensor(1), -128, 127)
    assert (y / 0.5 + 1).tolist() == [-1, 1, 1, 3, 3, 5]


def test_float64_result_is_code_times_scale_exactly() -> None:
    x = values(100, 5.0, 0).requires_grad_()
    scale = torch.tensor(0.1)
    y = fake_quantize_ste(x, scale, torch.tensor(0), -127, 127, dtype=torch.float64)
    codes = np.clip(np.rint(x.detach().numpy() / np.float32(0.1)), -127, 127).astype(np.float64)
    assert y.dtype == torch.float64
    assert np.array_equal(y.detach().numpy(), codes * np.float64(np.float32(0.1)))
    y.sum().backward()
    assert x.grad.dtype == torch.float32


def test_scale_and_zero_point_get_no_gradient() -> None:
    scale = torch.tensor(1.0, requires_grad=True)
    x = torch.ones(3, requires_grad=True)
    fake_quantize_ste(x, scale, torch.tensor(0), -2, 1).sum().backward()
    assert scale.grad is None


def test_round_passes_the_gradient() -> None:
    x = torch.tensor([-1.5, 0.5, 2.5, 0.2], requires_grad=True)
    y = round_ste(x)
    (y * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum().backward()
    assert y.tolist() == [-2, 0, 2, 0]
    assert x.grad.tolist() == [1, 2, 3, 4]


def test_one_bit_is_a_scaled_sign() -> None:
    x = torch.tensor([[-0.2, 0.0, 3.0], [1.0, -0.0, -5.0]], requires_grad=True)
    scale = torch.tensor([[2.0], [0.5]])
    y = sign_ste(x, scale)
    assert y.tolist() == [[-2, 2, 2], [0.5, 0.5, -0.5]]
    (y * torch.arange(6.0).reshape(2, 3)).sum().backward()
    assert x.grad.flatten().tolist() == [0, 1, 2, 3, 4, 5]
    assert sign_ste(x, scale, dtype=torch.float64).dtype == torch.float64


@pytest.mark.parametrize("scale", [0.0, -1.0])
def test_a_scale_must_be_positive(scale: float) -> None:
    with pytest.raises(ValueError, match="scale must be positive"):
        fake_quantize_ste(torch.ones(2), torch.tensor(scale), torch.tensor(0), -2, 1)


def test_codes_must_be_a_range() -> None:
    with pytest.raises(ValueError, match="qmin must be below qmax, got 1 and 1"):
        fake_quantize_ste(torch.ones(2), torch.tensor(1.0), torch.tensor(0), 1, 1)
