"""Token merging (ToMe): bipartite soft matching, and the size-weighted average of matched tokens.

Source: Bolya et al. 2023, "Token Merging: Your ViT But Faster", section 3.

Shapes: B images, N tokens, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize


def merge_similar(tokens: Tensor, metric: Tensor, sizes: Tensor, *, count: int, keep: int = 0) -> tuple[Tensor, Tensor]:
    """Returns tokens and sizes after one round: the most similar pairs are averaged, weighted by size.

    Tokens are dealt alternately into two sets. Each of the first set is paired with the most similar of the second,
    and the `count` most similar pairs are merged. The order of the tokens is lost.

    Args:
        tokens: [B, N, C].
        metric: [B, N, any], compared by cosine.
        sizes: [B, N], how many patches a token stands for; 0 for padding, which then weighs nothing.
        count: tokens to merge away; at most half of those that may be merged are.
        keep: tokens at the start that are never merged.
    """
    count = min(count, (tokens.shape[1] - keep) // 2)
    if count < 1:
        return tokens, sizes
    metric = normalize(metric[:, keep:], dim=-1)
    scores, partners = (metric[:, ::2] @ metric[:, 1::2].transpose(1, 2)).max(dim=-1)  # each (B, N/2)
    order = scores.argsort(dim=-1, descending=True)
    gone, left = order[:, :count], order[:, count:]
    targets = partners.gather(1, gone)

    def merge(values: Tensor) -> Tensor:  # (B, N, C) → (B, N - count, C)
        first, second = values[:, keep::2], values[:, keep + 1 :: 2]
        second = second.scatter_add(1, _wide(targets, values), first.gather(1, _wide(gone, values)))
        return torch.cat([values[:, :keep], first.gather(1, _wide(left, values)), second], dim=1)

    weights = sizes.unsqueeze(-1)
    merged_sizes = merge(weights)
    return merge(tokens * weights) / merged_sizes.clamp(min=1), merged_sizes.squeeze(-1)


def _wide(index: Tensor, values: Tensor) -> Tensor:
    return index.unsqueeze(-1).expand(-1, -1, values.shape[-1])
