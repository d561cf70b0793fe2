"""Front-ends and heads for images against plain loops."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from regard.config import AttentionConfig, FeedForwardConfig, LayerConfig, NormConfig, TransformConfig
from regard.config.vision import (
    AttentionPoolConfig,
    BoxesHeadConfig,
    ContrastiveHeadConfig,
    PatchClassifierConfig,
    PatchesConfig,
    PoolConfig,
)
from regard.nn import build
from regard.nn.context import packed, padded
from regard.nn.head import Ends
from regard.senses.vision import on_grid, resampled


def ends(rows: int, width: int, ids=None, eos=()) -> Ends:
    return Ends(padded(torch.arange(width).expand(rows, width), aligned=True), ids, eos)


def front(**changes):
    config = PatchesConfig(dim=6, size=(4, 6), patch=(2, 3), channels=2, before=1, after=1, registers=2)
    return build(config.replace(**changes))


@torch.no_grad()
def test_patches_are_cut_row_by_row_with_tokens_around_them():
    module, pixels = front(), torch.randn(2, 2, 4, 6)
    x, ctx = module(pixels)
    weight = module.proj.weight.flatten(1)
    cut = [pixels[:, :, 2 * r : 2 * r + 2, 3 * c : 3 * c + 3].flatten(1) for r in range(2) for c in range(2)]
    patches = [part @ weight.T + module.proj.bias for part in cut]
    place = module.position.weight
    row = [module.before.weight[0] + place[0], *module.registers.weight]
    expected = [token.expand(2, -1) for token in row]
    expected += [part + place[1 + i] for i, part in enumerate(patches)]
    expected.append((module.after.weight[0] + place[5]).expand(2, -1))
    torch.testing.assert_close(x, torch.stack(expected, 1))
    assert ctx.grid == (2, 2) and ctx.positions.shape == (2, 8)


@torch.no_grad()
def test_hidden_patches_show_the_mask_token_alone():
    module, pixels = front(masking=True, registers=0), torch.randn(1, 2, 4, 6)
    hidden = torch.tensor([[False, True, False, False]])
    plain, masked = module(pixels)[0], module(pixels, hidden)[0]
    torch.testing.assert_close(masked[:, 2], module.masked.weight + module.position.weight[2])
    keep = [0, 1, 3, 4, 5]
    assert torch.equal(plain[:, keep], masked[:, keep])
    with pytest.raises(ValueError, match=r"bool_masked_pos is \(1, 3\); allowed: \(1, 4\)"):
        module(pixels, hidden[:, :3])
    with pytest.raises(ValueError, match="no mask token"):
        front()(pixels, hidden)


def cubic(row: torch.Tensor, size: int) -> torch.Tensor:
    """(n, ...) -> (size, ...) by Keys' kernel (1981) with a = -0.75, ends repeated."""
    n, out = len(row), []
    for i in range(size):
        at = (i + 0.5) * n / size - 0.5
        first, total = int(at // 1), torch.zeros_like(row[0])
        for k in range(first - 1, first + 3):
            d = abs(at - k)
            near, far = 1.25 * d**3 - 2.25 * d**2 + 1, -0.75 * (d**3 - 5 * d**2 + 8 * d - 4)
            total = total + (near if d <= 1 else far) * row[min(max(k, 0), n - 1)]
        out.append(total)
    return torch.stack(out)


@pytest.mark.parametrize("new", [(7, 3), (4, 5), (9, 11)])
def test_positions_of_patches_are_resampled_by_cubics_and_the_others_stay(new):
    table = torch.randn(2 + 20 + 1, 3, dtype=torch.float64).float()
    found = resampled(table, (4, 5), new, 2)
    grid = cubic(table[2:22].unflatten(0, (4, 5)), new[0])
    expected = cubic(grid.transpose(0, 1), new[1]).transpose(0, 1).flatten(0, 1)
    torch.testing.assert_close(found[2:-1], expected, rtol=0, atol=1e-5)
    assert torch.equal(found[:2], table[:2]) and torch.equal(found[-1], table[-1])
    assert resampled(table, (4, 5), (4, 5), 2) is table


@torch.no_grad()
def test_sizes_that_do_not_fit_are_named():
    module = front()
    assert module(torch.randn(1, 2, 7, 9))[1].grid == (3, 3)  # one row of pixels is left over
    with pytest.raises(ValueError, match="pixel_values is of 7 x 9; allowed: 4 x 6"):
        module(torch.randn(1, 2, 7, 9), interpolate_pos_encoding=False)
    with pytest.raises(ValueError, match="3 channels of 4 x 6; allowed: 2 channels of at least 2 x 3"):
        module(torch.randn(1, 3, 4, 6))
    with pytest.raises(ValueError, match=r"PatchesConfig.size is \(1, 6\)"):
        front(size=(1, 6))
    video = front(size=(2, 4, 6), patch=(2, 2, 3), positions="fixed", before=0, after=0, registers=0)
    assert video(torch.randn(1, 2, 2, 4, 6))[1].grid == (1, 2, 2)
    with pytest.raises(ValueError, match="pixel_values is of 4 x 4 x 6; allowed: 2 x 4 x 6"):
        video(torch.randn(1, 4, 2, 4, 6))


@torch.no_grad()
def test_pools_of_tokens():
    hidden, ids = torch.randn(2, 5, 4), torch.tensor([[8, 3, 9, 3, 1], [3, 4, 5, 6, 7]])
    at = ends(2, 5, ids, (3,))
    for token, places in {"first": (0, 0), "last": (4, 4), "first_eos": (1, 0), "highest": (2, 4)}.items():
        found = build(PoolConfig(token=token), 4)(hidden, at)
        assert torch.equal(found, torch.stack([hidden[0, places[0]], hidden[1, places[1]]])), token
    torch.testing.assert_close(build(PoolConfig(token="mean"), 4)(hidden, at), hidden.mean(1))
    normed = build(PoolConfig(norm=NormConfig(), dense=TransformConfig(dim=3, activation="tanh")), 4)
    expected = torch.tanh(normed.dense.dense(F.layer_norm(hidden[:, 0], (4,))))
    torch.testing.assert_close(normed(hidden, at), expected)
    with pytest.raises(ValueError, match="pass input_ids"):
        build(PoolConfig(token="highest"), 4)(hidden, ends(2, 5))


@torch.no_grad()
def test_a_learned_query_pools_by_attention_in_every_layout():
    layer = LayerConfig(
        norm=NormConfig(),
        cross=AttentionConfig(num_heads=2, head_dim=2),
        feed_forward=FeedForwardConfig(hidden_dim=5),
    )
    pool, hidden = build(AttentionPoolConfig(layer=layer), 4), torch.randn(2, 3, 4)
    query, cross = pool.query.weight, pool.cross
    heads = []
    for h in range(2):
        part = slice(2 * h, 2 * h + 2)
        q, k, v = (f(x)[..., part] for f, x in ((cross.q, query), (cross.k, hidden), (cross.v, hidden)))
        heads.append((q @ k.mT / 2**0.5).softmax(-1) @ v)
    x = cross.out(torch.cat(heads, -1))[:, 0]
    expected = x + pool.ffn.fn.down(F.gelu(pool.ffn.fn.up(pool.ffn.norm(x))))
    torch.testing.assert_close(pool(hidden, ends(2, 3)), expected)
    torch.testing.assert_close(pool(hidden.flatten(0, 1), Ends(packed([3, 3], hidden.device))), expected)


@torch.no_grad()
def test_heads_for_boxes_labels_and_pairs():
    hidden = torch.randn(2, 6, 4)
    boxes = build(BoxesHeadConfig(num_labels=3, queries=2), 4)
    out = boxes(hidden, ends(2, 6))
    first, second, third = boxes.boxes.layers
    expected = torch.sigmoid(third(F.relu(second(F.relu(first(hidden[:, 4:]))))))
    torch.testing.assert_close(out["pred_boxes"], expected)
    torch.testing.assert_close(out["logits"], boxes.labels.layers[0](hidden[:, 4:]))
    labels = build(PatchClassifierConfig(num_labels=3, skip=2, with_first=True), 4)
    expected = labels.out(torch.cat([hidden[:, 0], hidden[:, 2:].mean(1)], -1))
    torch.testing.assert_close(labels(hidden, ends(2, 6))["logits"], expected)
    config = ContrastiveHeadConfig(image=PoolConfig(), text=PoolConfig(), scale=1.5, bias=True)
    head = build(config, 4, 4)
    image, text = torch.randn(2, 4), torch.randn(3, 4)
    head.bias.fill_(0.25)
    cosine = torch.stack([torch.cosine_similarity(one, text, -1) for one in image])
    torch.testing.assert_close(head(image, text)["logits_per_image"], cosine * torch.tensor(1.5).exp() + 0.25)


def test_a_context_on_a_grid_has_no_padding():
    ctx = on_grid(torch.zeros(3, 6, 2), (2, 3))
    assert ctx.positions.tolist() == [[0, 1, 2, 3, 4, 5]] * 3 and ctx.groups[0].mask(None) is None
