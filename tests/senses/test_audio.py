"""Front-ends for sound: lengths, norms, positions and masks against torch's own parts and plain loops."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from regard.config import (
    AttentionConfig,
    FeedForwardConfig,
    LayerConfig,
    MelConfig,
    MixedStackConfig,
    NormConfig,
    RunsConfig,
    WaveformConfig,
)
from regard.nn import build
from regard.senses.audio import WeightNormConv, every, hidden_runs, together

SMALL = WaveformConfig(dim=8, convs=((6, 5, 3), (4, 3, 2), (6, 2, 2)), position_kernel=6, position_groups=2)


@pytest.mark.parametrize("kernel", [5, 6])
def test_weight_norm_is_torchs_own(kernel):
    ours = WeightNormConv(8, kernel, 2)
    plain = torch.nn.Conv1d(8, 8, kernel, padding=kernel // 2, groups=2)
    theirs = torch.nn.utils.parametrizations.weight_norm(plain, dim=2)
    torch.nn.init.normal_(ours.scale)
    theirs.parametrizations.weight.original0.data = ours.scale.data
    theirs.parametrizations.weight.original1.data, theirs.bias.data = ours.weight.data, ours.bias.data
    x = torch.randn(3, 8, 11)
    torch.testing.assert_close(ours(x), theirs(x)[..., :11])


def test_frames_are_counted_as_the_convolutions_make_them():
    front = build(SMALL)
    least = next(n for n in range(100) if front.frames(n))
    for samples in range(least, least + 60):
        assert front(torch.randn(1, samples))[0].shape == (1, front.frames(samples), 8)
    with pytest.raises(ValueError, match=f"a row of {least - 1} samples; allowed: at least {least}"):
        front(torch.randn(1, least - 1))
    assert build(SMALL.replace(convs=((4, 10, 5), *((4, 3, 2),) * 4, *((4, 2, 2),) * 2))).frames(16000) == 49


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_padding_and_packing_change_nothing(norm):
    front = build(SMALL.replace(conv_norm=norm, feature_norm=NormConfig(), norm=NormConfig()))
    rows = [torch.randn(n) for n in (90, 200, 190, 70)]  # of which two are read together
    mask = torch.tensor([[i < len(row) for i in range(230)] for row in rows])
    batch = torch.stack([F.pad(row, (0, 230 - len(row)), value=9.0) for row in rows])
    (x, ctx), (flat, packed) = front(batch, mask), front(torch.cat(rows), lengths=[len(row) for row in rows])
    assert x.shape[1] == front.frames(230) and packed.lengths == tuple(front.frames(len(row)) for row in rows)
    for i, (row, part) in enumerate(zip(rows, flat.split(packed.lengths), strict=True)):
        alone = front(row[None])[0][0]
        torch.testing.assert_close(x[i, : len(alone)], alone)
        torch.testing.assert_close(part, alone)
        assert ctx.groups[0].q_valid[i].sum() == len(alone) and not x[i, len(alone) :].any()


def test_without_a_mask_padding_is_sound():
    front, row = build(SMALL), torch.randn(1, 90)
    assert not torch.allclose(front(F.pad(row, (0, 60)))[0][:, : front.frames(90)], front(row)[0])


def test_hidden_frames_become_one_vector():
    front = build(SMALL.replace(masking=True))
    x, hidden = torch.randn(2, 90), torch.zeros(2, 7, dtype=torch.bool)
    hidden[1, 2:5] = True
    seen = []
    front.position.register_forward_pre_hook(lambda module, args: seen.append(args[0].mT))
    plain, masked = front(x)[0], front(x, mask_time_indices=hidden)[0]
    torch.testing.assert_close(masked[0], plain[0])
    torch.testing.assert_close(seen[1][1, 2:5], front.masked.expand(3, -1))
    torch.testing.assert_close(seen[1][1, 5:], seen[0][1, 5:])
    with pytest.raises(ValueError, match="mask_time_indices"):
        build(SMALL)(x, mask_time_indices=hidden)


def test_runs_are_as_long_and_as_many_as_asked_for():
    config, lengths = RunsConfig(part=0.3, span=4, least=1), [40, 9, 4, 3, 40]
    counts = []
    for seed in range(300):
        torch.manual_seed(seed)
        hidden = hidden_runs(config, lengths)
        torch.manual_seed(seed)
        assert torch.equal(hidden, hidden_runs(config, lengths))
        for row, length in zip(hidden.tolist(), lengths, strict=True):
            assert not any(row[length:]) and (length < 4) is not any(row)
            runs = "".join("x" if mark else " " for mark in row).split()
            assert all(len(run) >= 4 for run in runs)
        counts.append(float(hidden[0].float().mean()))
    assert 0.8 * 0.3 < sum(counts) / 300 < 0.3  # some runs overlap
    assert not hidden_runs(config.replace(part=0.0, least=0), lengths).any()


def test_what_is_hidden_while_training_is_hidden_by_row_in_any_layout():
    """The vector for hidden moments, zeros in hidden channels; nothing in evaluation."""
    moments, channels = RunsConfig(part=0.4, span=2), RunsConfig(part=0.4, span=3)
    front = build(SMALL.replace(masking=True, hidden_moments=moments, hidden_channels=channels, conv_norm="layer"))
    rows = [torch.randn(n) for n in (90, 200, 190, 70)]  # of which two are read together
    seen = []
    lengths = [len(row) for row in rows]
    real = [front.frames(n) for n in lengths]
    front.position.register_forward_pre_hook(
        lambda module, args: seen.extend(row.mT[: real[len(seen) + i]] for i, row in enumerate(args[0]))
    )
    front.eval()(torch.cat(rows), lengths=lengths)
    plain = [x.detach() for x in seen]
    seen.clear()
    torch.manual_seed(7)
    front.train()(torch.cat(rows), lengths=lengths)
    torch.manual_seed(7)
    counts = [front.frames(n) for n in lengths]
    when, which = hidden_runs(moments, counts), hidden_runs(channels, [8] * 4)
    assert when.any() and which.any()
    for i, (was, now) in enumerate(zip(plain, seen, strict=True)):
        expected = torch.where(when[i, : len(was), None], front.masked, was).masked_fill(which[i], 0)
        torch.testing.assert_close(now, expected)
    given, found = torch.zeros(4, max(counts), dtype=torch.bool), seen.copy()
    seen.clear()
    front(torch.cat(rows), lengths=lengths, mask_time_indices=given)  # what is given is not drawn
    assert any(not torch.equal(a, b) for a, b in zip(seen, found, strict=True))
    assert not any(torch.isclose(x, front.masked).all(-1).any() for x in seen)
    with pytest.raises(ValueError, match="hidden_moments"):
        build(SMALL.replace(hidden_moments=moments))


def test_new_mel_positions_are_sines_then_cosines():
    front = build(MelConfig(num_mels=3, dim=8, size=5))
    for t in range(5):
        angles = [t * 10000 ** (-i / 3) for i in range(4)]
        expected = torch.tensor([math.sin(a) for a in angles] + [math.cos(a) for a in angles])
        torch.testing.assert_close(front.positions[t], expected)
    assert not front.positions.requires_grad


def test_mel_frames_are_read_two_by_two():
    front = build(MelConfig(num_mels=3, dim=8, size=5))
    x = torch.randn(2, 3, 7)
    y = F.gelu(F.conv1d(x, front.convs[0].weight, front.convs[0].bias, padding=1))
    y = F.gelu(F.conv1d(y, front.convs[1].weight, front.convs[1].bias, padding=1, stride=2)).mT
    torch.testing.assert_close(front(x)[0], y + front.positions[:4])


@pytest.mark.parametrize(
    ("config", "given"),
    [
        (MelConfig(num_mels=3, dim=8, size=5), torch.randn(2, 4, 7)),
        (MelConfig(num_mels=3, dim=8, size=5), torch.randn(2, 3, 11)),
        (MelConfig(num_mels=3, dim=8, size=5), torch.randn(3, 7)),
        (MelConfig(num_mels=3, dim=8, size=5), torch.ones(2, 3, 7, dtype=torch.long)),
        (SMALL, torch.randn(90)),
        (SMALL, torch.randn(0, 90)),
        (SMALL, torch.ones(2, 90, dtype=torch.int16)),
    ],
)
def test_wrong_sound_is_named(config, given):
    with pytest.raises(ValueError, match=r"input_\w+ is .*; allowed: \(batch, "):
        build(config)(given)


def test_wrong_masks_and_lengths_are_named():
    front, x = build(SMALL), torch.randn(2, 90)
    for mask in (torch.ones(2, 80), torch.ones(90), torch.arange(90).expand(2, 90) > 9):
        with pytest.raises(ValueError, match=r"attention_mask is .* zeros on the right only"):
            front(x, mask)
    for lengths, mask in (([90, 90, 1], None), ([90, 90], torch.ones(180))):
        with pytest.raises(ValueError, match="packed, 180 samples; lengths sum to"):
            front(x.flatten(), mask, lengths=lengths)


@pytest.mark.parametrize(
    "fields",
    [{"convs": ()}, {"convs": ((4, 3, 0),)}, {"position_groups": 3}, {"position_groups": 0}, {"position_kernel": 0}],
)
def test_a_wrong_waveform_config_is_named(fields):
    with pytest.raises(ValueError, match=f"WaveformConfig.{next(iter(fields))} is"):
        SMALL.replace(**fields)


def test_a_mixed_stack_is_the_weighted_average_of_its_states():
    layer = LayerConfig(
        norm=NormConfig(),
        attention=AttentionConfig(num_heads=2, head_dim=4),
        feed_forward=FeedForwardConfig(hidden_dim=12),
    )
    stack = build(MixedStackConfig(dim=8, layers=(layer, layer), final_norm=NormConfig()))
    x = torch.randn(2, 5, 8)
    states = [x]
    for i in range(2):
        states.append(stack.layers[i](states[-1], every(x)))
    states[-1] = stack.norm(states[-1])
    torch.testing.assert_close(stack(x, every(x)), sum(states) / 3)
    stack.mix.data = torch.tensor([0.0, math.log(2), math.log(5)])
    torch.testing.assert_close(stack(x, every(x)), (states[0] + 2 * states[1] + 5 * states[2]) / 8)


def test_neighbours_of_like_length_are_read_together():
    assert together([10, 10, 10]) == [3]
    assert together([80, 90, 100]) == [3]  # 30 more than 270
    assert together([70, 100, 100, 100]) == [1, 3]
    assert together([100, 10, 10, 90]) == [1, 2, 1]
