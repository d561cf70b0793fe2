"""Draws follow the distribution, and a seed decides a text whatever else is in the batch."""

from __future__ import annotations

import pytest
import torch

from regard.generation.config import GenerationConfig
from regard.generation.sampling import draw, gumbel, nucleus, spread, top_p, uniforms, warp


def chi_square(counts, probabilities):
    """Sum of (seen - expected)^2 / expected over the tokens that may occur."""
    possible = probabilities > 0
    assert counts[~possible].sum() == 0
    expected = probabilities[possible] * counts.sum()
    return float(((counts[possible] - expected) ** 2 / expected).sum())


@pytest.mark.parametrize(
    "options", [{"top_k": 0}, {"top_k": 5}, {"top_k": 0, "top_p": 0.7}, {"temperature": 2.0, "top_k": 9}]
)
def test_draws_follow_the_distribution(options):
    logits = torch.tensor([1.0, 2.0, 0.5, -1.0, 0.0, 1.5, -2.0, 0.3, 0.9, 1.1])
    config, n = GenerationConfig(do_sample=True, **options), 20_000
    candidates, index = warp(logits.expand(n, -1), config)
    places = draw(candidates, uniforms(7, n, 1, 1, torch.device("cpu"))[:, 0] * 0 + torch.rand(n))
    tokens = places if index is None else index.gather(1, places[:, None])[:, 0]
    heated = logits / config.temperature
    if config.top_k:
        heated = heated.masked_fill(heated < heated.topk(config.top_k).values[-1], -torch.inf)
    probabilities = heated.softmax(-1)
    if config.top_p < 1:  # written out: the best tokens until their sum reaches p
        order, total, kept = probabilities.argsort(descending=True).tolist(), 0.0, []
        while total < config.top_p:
            kept.append(order[len(kept)])
            total += float(probabilities[kept[-1]])
        mask = torch.zeros(10).index_fill_(0, torch.tensor(kept), 1.0)
        probabilities = probabilities * mask / (probabilities * mask).sum()
    counts = torch.bincount(tokens, minlength=10).float()
    assert chi_square(counts, probabilities) < 27.9  # 0.999 quantile at 9 degrees of freedom


@pytest.mark.parametrize("p", [0.0, 0.3, 0.9, 0.999])
def test_a_nucleus_is_found_among_the_best(p):
    draw_of = torch.Generator().manual_seed(1)
    scores = torch.randn(4, 3000, generator=draw_of) * torch.tensor([[6.0], [2.0], [0.3], [0.0]])
    scores[3] += torch.arange(3000) * 1e-3
    expected = top_p(scores, p, 2)
    for most in (16, 1024, 3000):
        found = spread(*nucleus(scores, p, 2, most), 3000)
        assert torch.equal(found.isfinite(), expected.isfinite()), most
        assert torch.equal(found[found.isfinite()], scores[found.isfinite()])


def test_draw_never_takes_what_is_forbidden_and_reaches_the_ends():
    scores = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]])
    at = torch.tensor([0.0, 0.49, 0.51, 1 - 2**-24])
    assert [int(draw(scores, u[None])) for u in at] == [1, 1, 3, 3]


def test_gumbel_draws_without_replacement():
    """The first of two draws follows the softmax, the pair Plackett and Luce."""
    p = torch.tensor([0.5, 0.3, 0.15, 0.05])
    n = 20_000
    pairs = (p.log().expand(n, -1) + gumbel(p.expand(n, -1), None)).topk(2).indices
    counts = torch.zeros(4, 4).index_put_((pairs[:, 0], pairs[:, 1]), torch.ones(n), accumulate=True)
    expected = p[:, None] * p[None] / (1 - p[:, None])
    expected.fill_diagonal_(0)
    assert chi_square(counts.flatten(), expected.flatten()) < 31.3  # 0.999 quantile at 11 degrees of freedom


def test_uniforms_do_not_depend_on_the_batch_or_the_number_of_steps():
    cpu = torch.device("cpu")
    many = uniforms((3, 8, 5), 3, 2, 40, cpu)
    for steps in (1, 7, 16, 33):
        assert torch.equal(uniforms(8, 1, 1, steps, cpu)[0], many[2, :steps])
    assert not torch.equal(many[0], many[1])
    assert torch.equal(uniforms(8, 1, 2, 40, cpu), many[2:4])


def test_seed_decides(gpt2, rows):
    options = {"do_sample": True, "max_new_tokens": 15, "eos_token_id": None}
    texts = gpt2.generate(rows, seed=[5, 6, 7, 8], **options)[:, 9:]
    assert torch.equal(gpt2.generate([rows[2]], seed=7, **options)[:, 6:], texts[2:3])
    assert torch.equal(gpt2.generate(rows[::-1], seed=[8, 7, 6, 5], **options)[:, 9:], texts.flip(0))
    assert not torch.equal(gpt2.generate(rows, seed=[1, 2, 3, 4], **options)[:, 9:], texts)
    several = gpt2.generate([rows[2]], seed=7, num_return_sequences=3, **options)[:, 6:]
    assert torch.equal(several[:1], texts[2:3]) and len({tuple(r) for r in several.tolist()}) == 3


def test_without_a_seed_torch_decides(gpt2, rows):
    options = {"do_sample": True, "max_new_tokens": 15}
    torch.manual_seed(4)
    first = gpt2.generate(rows, **options)
    assert not torch.equal(first, gpt2.generate(rows, **options))
    torch.manual_seed(4)
    assert torch.equal(first, gpt2.generate(rows, **options))


def test_edges_of_the_options(gpt2, rows):
    greedy = gpt2.generate(rows, max_new_tokens=9)
    for options in ({"temperature": 0}, {"top_k": 1}, {"top_p": 0.0, "top_k": 0}, {"min_p": 1.0}):
        assert torch.equal(gpt2.generate(rows, do_sample=True, max_new_tokens=9, **options), greedy), options
    big = gpt2.generate(rows, do_sample=True, seed=1, top_k=10_000, max_new_tokens=9)
    assert torch.equal(big, gpt2.generate(rows, do_sample=True, seed=1, top_k=0, max_new_tokens=9))


def test_scores_are_what_was_drawn_from(gpt2, rows):
    out = gpt2.generate(
        rows, do_sample=True, seed=2, top_k=4, max_new_tokens=3, eos_token_id=None, output_scores=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    for new, scores in enumerate(out.scores):
        assert (scores > -torch.inf).sum(1).tolist() == [4] * 4
        assert bool((scores.gather(1, out.sequences[:, 9 + new, None]) > -torch.inf).all())
