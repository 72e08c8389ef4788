"""Slimming: fewer channels and fewer layers, in a network that is really smaller.

- `groups`: which channels must go together, across batch norms and depthwise layers;
- `selection`: the penalty on batch-norm scales, joint scores, masks by rank or by layer;
- `rebuild`: the masked network, the smaller one, and the constants that dropped channels leave;
- `sensitivity`: what each layer bears, and a plan from a budget;
- `depth`: removing whole layers;
- `published`: the food-11 article's table and the trace that its optimizer left in it.

Chapter: 08_slimming.
"""

from helpers.slimming.depth import remove_layers
from helpers.slimming.groups import ChannelGroup, chain, channel_groups, layer_shapes
from helpers.slimming.rebuild import dead_constants, fresh, masked, slim
from helpers.slimming.selection import (
    filter_norms,
    importance,
    keep_by_layer,
    keep_by_rank,
    keep_largest,
    scale_penalty,
    scales,
)
from helpers.slimming.sensitivity import largest_ratios, plan, sensitivity

__all__ = [
    "ChannelGroup",
    "chain",
    "channel_groups",
    "dead_constants",
    "filter_norms",
    "fresh",
    "importance",
    "keep_by_layer",
    "keep_by_rank",
    "keep_largest",
    "largest_ratios",
    "layer_shapes",
    "masked",
    "plan",
    "remove_layers",
    "scale_penalty",
    "scales",
    "sensitivity",
    "slim",
]
