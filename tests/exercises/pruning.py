"""Typical wrong answers to the exercises of lab 04_pruning, and unusual right ones."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

Pair = tuple[Any, Any]
Fields = list[tuple[int, bool]]


def mask_by_limit(weight: Tensor, density: float) -> Tensor:
    drop = weight.numel() - round(density * weight.numel())
    if drop == 0:
        return torch.ones_like(weight, dtype=torch.bool)
    return weight.abs() > weight.abs().flatten().kthvalue(drop).values


def mask_at_limit(weight: Tensor, density: float) -> Tensor:
    count = round(density * weight.numel())
    if count == 0:
        return torch.zeros_like(weight, dtype=torch.bool)
    return weight.abs() >= weight.abs().flatten().topk(count).values[-1]


def top(sizes: Tensor, count: int) -> Tensor:
    mask = torch.zeros(sizes.numel(), dtype=torch.bool)
    mask[sizes.flatten().argsort(descending=True)[:count]] = True
    return mask.reshape(sizes.shape)


def mask_with_sign(weight: Tensor, density: float) -> Tensor:
    return top(weight, round(density * weight.numel()))


def mask_of_sparsity(weight: Tensor, density: float) -> Tensor:
    return top(weight.abs(), weight.numel() - round(density * weight.numel()))


def mask_as_float(weight: Tensor, density: float) -> Tensor:
    return top(weight.abs(), round(density * weight.numel())).float()


def mask_flat(weight: Tensor, density: float) -> Tensor:
    return top(weight.abs(), round(density * weight.numel())).flatten()


def mask_in_place(weight: Tensor, density: float) -> Tensor:
    mask = top(weight.abs(), round(density * weight.numel()))
    weight.mul_(mask)
    return mask


def step(w: Tensor, v: Tensor, g: Tensor, mask: Tensor, lr: float, mu: float, decay: float) -> Pair:
    v = mu * v + g
    return (w - lr * (v + decay * w)) * mask, v


def step_masks_gradient(w, v, g, mask, lr, mu, decay):  # type: ignore[no-untyped-def]
    v = mu * v + g * mask
    return w - lr * (v + decay * w), v


def step_masks_before(w, v, g, mask, lr, mu, decay):  # type: ignore[no-untyped-def]
    v = mu * v + g * mask
    w = w * mask
    return w - lr * (v + decay * w), v


def step_masks_velocity_only(w, v, g, mask, lr, mu, decay):  # type: ignore[no-untyped-def]
    v = (mu * v + g) * mask
    return w - lr * (v + decay * w), v


def step_without_decay(w, v, g, mask, lr, mu, decay):  # type: ignore[no-untyped-def]
    return step(w, v, g, mask, lr, mu, 0.0)


def step_with_old_velocity(w, v, g, mask, lr, mu, decay):  # type: ignore[no-untyped-def]
    return (w - lr * (v + decay * w)) * mask, mu * v + g


def step_in_place(w, v, g, mask, lr, mu, decay):  # type: ignore[no-untyped-def]
    new_weight, new_velocity = step(w, v, g, mask, lr, mu, decay)
    return w.copy_(new_weight), v.copy_(new_velocity)


def fields(positions: list[int], bits: int, *, start: int = -1, largest: int = 0) -> Fields:
    found, at = [], start
    largest = largest or 2**bits
    for position in positions:
        while position - at > largest:
            found.append((largest, True))
            at += largest
        found.append((position - at, False))
        at = position
    return found


def fields_one_filler(positions: list[int], bits: int) -> Fields:
    found, at = [], -1
    for position in positions:
        gap = position - at
        if gap > 2**bits:
            found.append((2**bits, True))
            gap -= 2**bits
        found.append((gap, False))
        at = position
    return found


def fields_eager(positions: list[int], bits: int) -> Fields:
    found, at = [], -1
    for position in positions:
        while position - at >= 2**bits:
            found.append((2**bits, True))
            at += 2**bits
        found.append((position - at, False))
        at = position
    return found


def dense_from_zero(values: list[float], gaps: list[int], size: int) -> list[float]:
    dense, at = [0.0] * (size + 1), 0
    for value, gap in zip(values, gaps, strict=True):
        at += gap
        dense[at] = value
    return dense[:size]


def dense_as_positions(values: list[float], gaps: list[int], size: int) -> list[float]:
    dense = [0.0] * size
    for value, gap in zip(values, gaps, strict=True):
        dense[gap - 1] = value
    return dense


def dense_skips_fillers(values: list[float], gaps: list[int], size: int) -> list[float]:
    dense, at = [0.0] * size, -1
    for value, gap in zip(values, gaps, strict=True):
        if value:
            at += gap
            dense[at] = value
    return dense


def dense_too_short(values: list[float], gaps: list[int], size: int) -> list[float]:
    dense, at = [0.0] * sum(gaps), -1
    for value, gap in zip(values, gaps, strict=True):
        at += gap
        dense[at] = value
    return dense


def ranks(values: Tensor) -> Tensor:
    n = len(values)
    return 2 * torch.arange(1, n + 1, dtype=values.dtype) - n - 1


def slope_ties_split(values: Tensor) -> Tensor:
    slope = torch.empty_like(values)
    slope[values.argsort(stable=True)] = ranks(values)
    return slope


def slope_wrong_undo(values: Tensor) -> Tensor:
    return ranks(values)[values.argsort(stable=True)]


WRONG_ANSWERS = {
    "ratio_mask": [
        ("drops all ties at the limit", mask_by_limit),
        ("keeps all ties at the limit", mask_at_limit),
        ("largest values instead of sizes", mask_with_sign),
        ("density taken for sparsity", mask_of_sparsity),
        ("numbers instead of bool", mask_as_float),
        ("loses the shape", mask_flat),
        ("prunes the weights too", mask_in_place),
    ],
    "masked_step": [
        ("masks the gradient only", step_masks_gradient),
        ("masks before the step", step_masks_before),
        ("masks the velocity only", step_masks_velocity_only),
        ("forgets the decay", step_without_decay),
        ("uses the old velocity", step_with_old_velocity),
        ("changes its arguments", step_in_place),
    ],
    "gap_fields": [
        ("starts at 0, as the paper's figure", lambda p, bits: fields(p, bits, start=0)),
        ("largest gap 2**bits - 1", lambda p, bits: fields(p, bits, largest=2**bits - 1)),
        ("one filler at most", fields_one_filler),
        ("a filler where the gap still fits", fields_eager),
        ("no fillers", lambda p, bits: fields(p, bits, largest=10**6)),
        ("gaps without flags", lambda p, bits: [gap for gap, _ in fields(p, bits)]),
    ],
    "from_gaps": [
        ("starts at 0", dense_from_zero),
        ("takes gaps for positions", dense_as_positions),
        ("fillers do not step", dense_skips_fillers),
        ("forgets the zeros at the end", dense_too_short),
    ],
    "pair_subgradient": [
        ("splits ties", slope_ties_split),
        ("in sorted order", lambda values: ranks(values)),
        ("sorts twice the wrong way", slope_wrong_undo),
        ("sign of the value", torch.sign),
        ("each pair twice", lambda values: 2 * (values[:, None] - values).sign().sum(1)),
        ("wrong sign", lambda values: (values - values[:, None]).sign().sum(1)),
    ],
}


def mask_in_numpy(weight: Tensor, density: float) -> Any:
    sizes = np.abs(weight.numpy())
    mask = np.zeros(sizes.size, bool)
    mask[np.argsort(-sizes, axis=None)[: round(density * sizes.size)]] = True
    return mask.reshape(sizes.shape)


def step_in_numpy(*tensors_and_rates):  # type: ignore[no-untyped-def]
    w, v, g, mask = (tensor.numpy() for tensor in tensors_and_rates[:4])
    lr, mu, decay = tensors_and_rates[4:]
    v = mu * v.astype(float) + g
    return np.where(mask, w - lr * (v + decay * w), 0.0), v


def dense_as_tensor(values: list[float], gaps: list[int], size: int) -> Tensor:
    dense = torch.zeros(size)
    dense[torch.tensor(gaps, dtype=torch.long).cumsum(0) - 1] = torch.tensor(values)
    return dense


def slope_by_autograd(values: Tensor) -> Tensor:
    leaf = values.clone().requires_grad_()
    ((leaf[:, None] - leaf).abs().sum() / 2).backward()
    assert leaf.grad is not None
    return leaf.grad


RIGHT_ANSWERS = {
    "ratio_mask": [
        ("sorted the other way", lambda w, d: top(w.abs(), round(d * w.numel()))),
        ("a NumPy mask", mask_in_numpy),
    ],
    "masked_step": [
        ("the velocity unmasked", step),
        ("a list", lambda *given: list(step(*given))),
        ("NumPy, float64", step_in_numpy),
    ],
    "gap_fields": [
        ("a tuple", lambda p, bits: tuple(fields(p, bits))),
        ("a generator", lambda p, bits: (field for field in fields(p, bits))),
        ("an array of 0 and 1", lambda p, bits: np.array(fields(p, bits)).reshape(-1, 2)),
    ],
    "from_gaps": [("a tensor of float32", dense_as_tensor)],
    "pair_subgradient": [
        ("all pairs", lambda values: (values[:, None] - values).sign().sum(1)),
        ("by autograd", slope_by_autograd),
        ("a list", lambda values: (values[:, None] - values).sign().sum(1).tolist()),
    ],
}
