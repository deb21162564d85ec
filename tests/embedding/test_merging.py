import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from vilt_bench.embedding.merging import merge_similar


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_hand(tokens: Tensor, metric: Tensor, sizes: Tensor, *, count: int, keep: int) -> list[tuple[float, ...]]:
    """Bolya et al.'s five steps for one image, one pair at a time; sorted, as the order is free."""
    first = range(keep, len(tokens), 2)
    second = list(range(keep + 1, len(tokens), 2))
    edges = []
    for a in first:
        scores = [float(cosine_similarity(metric[a], metric[b], dim=0)) for b in second]
        edges.append((max(scores), a, second[scores.index(max(scores))]))
    merged = sorted(edges, reverse=True)[:count]
    sums = {i: tokens[i] * sizes[i] for i in range(len(tokens))}
    weights = {i: float(sizes[i]) for i in range(len(tokens))}
    for _, a, b in merged:
        sums[b] = sums[b] + tokens[a] * sizes[a]
        weights[b] += float(sizes[a])
    gone = {a for _, a, _ in merged}
    left = [i for i in range(len(tokens)) if i not in gone]
    return sorted(tuple((sums[i] / max(weights[i], 1)).tolist()) for i in left)


def test_one_round_equals_the_papers_steps_one_pair_at_a_time() -> None:
    tokens, metric = draw(3, 11, 4), draw(3, 11, 6, seed=1)
    sizes = torch.randint(1, 4, (3, 11), generator=torch.Generator().manual_seed(2)).float()
    for keep in (0, 1, 2):
        merged, _ = merge_similar(tokens, metric, sizes, count=3, keep=keep)
        for image in range(3):
            expected = by_hand(tokens[image], metric[image], sizes[image], count=3, keep=keep)
            torch.testing.assert_close(
                torch.tensor(sorted(map(tuple, merged[image].tolist()))), torch.tensor(expected), rtol=1e-4, atol=1e-5
            )


def test_sizes_and_the_sum_of_all_tokens_are_kept() -> None:
    tokens, sizes = draw(2, 20, 8), torch.ones(2, 20)
    total = tokens.sum(dim=1)
    for _ in range(3):
        tokens, sizes = merge_similar(tokens, tokens, sizes, count=4)
    assert tokens.shape[1] == sizes.shape[1] == 8
    torch.testing.assert_close(sizes.sum(dim=1), torch.full((2,), 20.0))
    torch.testing.assert_close((tokens * sizes.unsqueeze(-1)).sum(dim=1), total)


def test_equal_tokens_are_merged_first_and_stay_what_they_are() -> None:
    tokens = draw(1, 8, 16)
    tokens[:, 5] = tokens[:, 2]  # of different sets
    merged, sizes = merge_similar(tokens, tokens, torch.ones(1, 8), count=1)
    twice = merged[0, sizes[0].argmax()]
    assert sizes.max() == 2
    torch.testing.assert_close(twice, tokens[0, 2])


def test_protected_tokens_stay_in_front_as_they_are() -> None:
    tokens = draw(2, 13, 4)
    merged, sizes = merge_similar(tokens, tokens, torch.ones(2, 13), count=5, keep=3)
    assert torch.equal(merged[:, :3], tokens[:, :3])
    assert (sizes[:, :3] == 1).all()


def test_at_most_half_of_what_may_be_merged_is() -> None:
    tokens = draw(1, 9, 4)
    assert merge_similar(tokens, tokens, torch.ones(1, 9), count=100, keep=2)[0].shape[1] == 9 - 7 // 2
    assert merge_similar(tokens, tokens, torch.ones(1, 9), count=0)[0] is tokens


def test_padding_weighs_nothing() -> None:
    tokens = draw(1, 8, 4)
    sizes = torch.tensor([[1.0, 1, 1, 1, 0, 0, 0, 0]])
    merged, left = merge_similar(tokens, tokens, sizes, count=4)
    torch.testing.assert_close((merged * left.unsqueeze(-1)).sum(dim=1), tokens[:, :4].sum(dim=1))
