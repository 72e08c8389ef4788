"""BinaryConnect: weights that are +1 or -1 wherever they are used, and real where they are learned.

A layer stores a real *latent* weight. Its binary version makes the forward pass and the gradients;
the gradient then moves the latent weight, which is clipped. Here `w` is a latent weight in units of
its clipping bound, so that it lies in [-1, 1].

Source: Courbariaux, Bengio, David, "BinaryConnect: training deep neural networks with binary
weights during propagations", NIPS 2015 (arXiv:1511.00363), sections 2.2 to 2.6.

Chapter: 03_binaryconnect.
"""

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RULES = ("deterministic", "stochastic", "real")


def sign(w: Tensor) -> Tensor:
    """+1 where w >= 0, else -1: same shape and dtype as `w`. Zero becomes +1, never 0.

    Source: equation 1 of the paper. `torch.sign` has a third value, 0.
    """
    return torch.where(w >= 0, 1.0, -1.0).to(w.dtype)


def hard_sigmoid(w: Tensor) -> Tensor:
    """clip((w + 1) / 2, 0, 1): the probability of +1 in the stochastic rule (equation 3)."""
    return ((w + 1) / 2).clamp(0, 1)


def binarize(
    w: Tensor, rule: str = "deterministic", generator: torch.Generator | None = None
) -> Tensor:
    """The weights that the layer computes with: same shape and dtype as `w`.

    "deterministic": `sign(w)`. "stochastic": +1 with probability `hard_sigmoid(w)`, else -1, drawn
    from `generator` (default: torch's global one, which `set_seed` seeds). "real": `w` itself.
    Raises ValueError for another rule.
    """
    if rule == "deterministic":
        return sign(w)
    if rule == "stochastic":
        return 2 * torch.bernoulli(hard_sigmoid(w), generator=generator) - 1
    if rule == "real":
        return w
    raise ValueError(f"rule must be one of {', '.join(RULES)}, got {rule!r}")


def straight_through(w: Tensor, value: Tensor) -> Tensor:
    """`value` in the forward pass, the identity in `w` in the backward pass.

    The bracket is exactly zero, so that the result is exactly `value`. The usual `w + (value - w)`
    rounds twice and gives 0.99999994 in places where `w` and `value` differ in sign.
    """
    return value.detach() + (w - w.detach())


def glorot_bound(fan_in: int, fan_out: int) -> float:
    """sqrt(1.5 / (fan_in + fan_out)): half the bound of Glorot and Bengio's uniform start."""
    if fan_in < 1 or fan_out < 1:
        raise ValueError(f"fan_in and fan_out must be positive, got {fan_in} and {fan_out}")
    return math.sqrt(1.5 / (fan_in + fan_out))


def squared_hinge(outputs: Tensor, labels: Tensor) -> Tensor:
    """Mean of max(0, 1 - t y)^2 over images and classes; t is +1 for the label, else -1.

    `outputs` (N, classes) floating point, `labels` (N,) int64.
    """
    target = 2 * F.one_hot(labels, outputs.shape[1]).to(outputs.dtype) - 1
    return (1 - target * outputs).clamp(min=0).square().mean()


class BinaryLinear(nn.Linear):
    """A dense layer whose weights are +1 or -1: (N, in_features) -> (N, out_features).

    `weight` holds the latent weights, from -`bound` to +`bound` and uniform at the start; `rule`
    says how they are used in train mode, `test_rule` in eval mode: the same, but "real" after
    stochastic training, as in the paper. The output is divided by the constant `divisor`.

    With the bound c of `glorot_bound` (the default) one Adam step of size lr moves w = weight / c by
    lr / c, and one SGD step by lr / c^2: the paper's learning-rate scaling (section 2.5) without a
    learning rate for each layer. Raises ValueError for an unknown rule or a bound or divisor that is
    not positive.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        rule: str = "deterministic",
        bound: float | None = None,
        bias: bool = False,
        divisor: float = 1.0,
    ) -> None:
        if rule not in RULES:
            raise ValueError(f"rule must be one of {', '.join(RULES)}, got {rule!r}")
        bound = glorot_bound(in_features, out_features) if bound is None else float(bound)
        for name, value in (("bound", bound), ("divisor", divisor)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {value!r}")
        self.rule, self.bound, self.divisor = rule, bound, divisor
        self.test_rule = "real" if rule == "stochastic" else rule
        super().__init__(in_features, out_features, bias=bias)

    def reset_parameters(self) -> None:
        """Latent weights uniform between the bounds, bias 0."""
        nn.init.uniform_(self.weight, -self.bound, self.bound)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def latent(self) -> Tensor:
        """w = weight / bound: in [-1, 1] where the weights are clipped."""
        return self.weight / self.bound

    def used(self) -> Tensor:
        """The weights of the present mode, with straight-through gradients to `weight`."""
        w = self.latent()
        return straight_through(
            w, binarize(w.detach(), self.rule if self.training else self.test_rule)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.used()) / self.divisor
        return y if self.bias is None else y + self.bias


def binary_layers(model: nn.Module) -> dict[str, BinaryLinear]:
    """The binary layers of a model by name; ValueError if it has none."""
    layers = {n: m for n, m in model.named_modules() if isinstance(m, BinaryLinear)}
    if not layers:
        raise ValueError(f"{type(model).__name__} has no BinaryLinear layer")
    return layers


def clip_(model: nn.Module) -> None:
    """Clip the latent weights of every layer to its bound, in place (for `fit`'s `after_step`).

    Layers with the rule "real" are left alone.
    """
    with torch.no_grad():
        for layer in binary_layers(model).values():
            if layer.rule != "real":
                layer.weight.clamp_(-layer.bound, layer.bound)


def with_test_rule(model: nn.Module, rule: str) -> nn.Module:
    """A copy in eval mode whose binary layers follow `rule` at test time.

    Raises ValueError for an unknown rule, or a model without binary layers.
    """
    if rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}, got {rule!r}")
    model = copy.deepcopy(model).eval()
    for layer in binary_layers(model).values():
        layer.test_rule = rule
    return model


def reestimate_batch_norm(model: nn.Module, x: Tensor) -> nn.Module:
    """A copy whose batch norms hold the mean and variance of `x` under the test rule.

    Batch norms collected their statistics with the weights of training. Where other weights are
    used at test time, their inputs have another mean and variance. `x` is (N, ...), N >= 2, and goes
    through as one batch: batches of one class each would miss the variance between the classes.
    """
    if len(x) < 2:
        raise ValueError(f"x must hold at least two images, got {len(x)}")
    model = copy.deepcopy(model).eval()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0  # take the batch's statistics whole
    with torch.no_grad():
        model(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model.eval()
