"""The edge recipe: transfer, sensitivity, fewer layers and channels, a smaller input, int8, export.

- `task`: four classes and a background with few labels, beside a larger set to pre-train on;
- `pretrained`: the network that the recipe starts from, with the command that reproduces it;
- `steps`: the recipe's one table, a row a step, and what a network and its classifier occupy;
- `published`: the GW2A accelerator paper's numbers, and which of them follow from one another.

The techniques themselves are those of chapters 07, 08, 09 and 09b.

Chapter: 10_edge_recipe.
"""
