"""Each kernel against the formula, at each level of instructions: odd sizes, few rows, no rows, bad arguments."""

from __future__ import annotations

import copy
import ctypes

import pytest
import torch

from regard.config import (
    AlibiConfig,
    AttentionConfig,
    Causal,
    FeedForwardConfig,
    LayerConfig,
    NormConfig,
    RelativeBiasConfig,
    RopeConfig,
    StackConfig,
    Window,
)
from regard.native import layout
from regard.native.branches import AttentionBranch
from regard.native.run import MANY, NativeStack
from regard.native.weights import Store
from regard.nn import KVCache, Linear, build
from regard.nn.context import cached, with_memory
from tests.native.formula import product, rounded

SHAPES = [(64, 64), (1, 1), (7, 3), (130, 100), (65, 257), (48, 768), (200, 33)]
ROWS = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 17, 31, 32, 33]
KINDS = ["fp32", "bf16", "int8", "int4"]
RMS = NormConfig(kind="rms")


def close(found, expected, scale=1e-5):
    torch.testing.assert_close(found, expected, rtol=0, atol=scale * max(1.0, float(expected.abs().max())))


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_linear(level, kind, shape, threads):
    module = Linear(shape[1], shape[0], bias=shape[0] % 2 == 0)
    store = Store(kind)
    structure = store.linear(module)
    for rows in ROWS:
        x = torch.randn(rows + 1, shape[1]) * 3
        y = torch.full((rows + 1, shape[0]), 7.0)
        layout.kernels().rg_linear(layout.address(structure), rows, threads, x.data_ptr(), y.data_ptr())
        if rows:
            close(y[:rows], product(x[:rows], module.weight, module.bias, kind))
        assert (y[rows:] == 7).all(), "written beyond the last row"


@pytest.mark.parametrize("inputs", [100, 1100])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_row_is_the_same_among_many(level, kind, inputs):
    """Bit by bit: sums are added in one order, however many rows are read beside each other."""
    store, x, many, few = Store(kind), torch.randn(130, inputs), torch.empty(130, 70), torch.empty(130, 70)
    at = layout.address(store.linear(Linear(inputs, 70)))
    layout.kernels().rg_linear(at, 130, 2, x.data_ptr(), many.data_ptr())
    for rows in (1, 3, 8, 13):
        for row in range(0, 130, rows):
            count = min(rows, 130 - row)
            layout.kernels().rg_linear(at, count, 1, x[row].data_ptr(), few[row].data_ptr())
        assert torch.equal(many, few), rows


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("out", "count"), [(1, 1), (9, 9), (300, 5), (1003, 8)])
@torch.no_grad()
def test_best(level, kind, out, count, threads):
    module, store = Linear(33, out), Store(kind)
    structure, at = store.linear(module), layout.address
    rule = torch.zeros(out)
    rule[torch.randperm(out)[: out - count]] = -torch.inf
    for rows in (1, 7, 70):
        x, y = torch.randn(rows, 33) * 3, torch.empty(rows, out)
        layout.kernels().rg_linear(at(structure), rows, threads, x.data_ptr(), y.data_ptr())
        for forbidden, weighed in ((None, True), (rule, True), (rule, False)):
            values, ids = torch.full((rows + 1, count), 7.0), torch.full((rows + 1, count), 7)
            peak, mass = torch.full((2, rows + 1), 7.0)
            best = layout.Best(count, values.data_ptr(), ids.data_ptr())
            if weighed:
                best.peak, best.mass = peak.data_ptr(), mass.data_ptr()
            place = None if forbidden is None else forbidden.data_ptr()
            layout.kernels().rg_best(at(structure), rows, threads, x.data_ptr(), place, at(best))
            expected = (y if forbidden is None else y + forbidden).topk(count)
            assert torch.equal(values[:rows], expected.values) and torch.equal(ids[:rows], expected.indices)
            assert (values[rows:] == 7).all() and (ids[rows:] == 7).all() and peak[rows] == mass[rows] == 7
            if weighed:
                close(peak[:rows] + mass[:rows].log(), y.logsumexp(1))
            else:
                assert (peak == 7).all() and (mass == 7).all()


def test_best_of_equals_is_the_first():
    store = Store("fp32")
    structure = store.linear(Linear(4, 600).requires_grad_(False))
    x, values, ids = torch.zeros(1, 4), torch.empty(3), torch.empty(3, dtype=torch.long)
    structure.bias = None
    for threads in (1, 2, 5):
        best = layout.Best(3, values.data_ptr(), ids.data_ptr())
        layout.kernels().rg_best(layout.address(structure), 1, threads, x.data_ptr(), None, layout.address(best))
        assert ids.tolist() == [0, 1, 2] and values.tolist() == [0, 0, 0]
    for count in (0, 257, 601):
        best.count = count
        with pytest.raises(ValueError, match="rg_best: a size is out of range"):
            layout.kernels().rg_best(layout.address(structure), 1, 1, x.data_ptr(), None, layout.address(best))


@pytest.mark.parametrize("dim", [1, 5, 16, 33, 768])
@torch.no_grad()
def test_norms(level, dim):
    for config in (NormConfig(eps=1e-3), RMS, NormConfig(kind="rms", offset=1.0)):
        module = build(config, dim)
        for parameter in module.parameters():
            parameter.normal_()
        x, y = torch.randn(3, dim) * 5 + 2, torch.empty(3, dim)
        norm = Store("fp32").norm(module)
        layout.kernels().rg_norm(layout.address(norm), 3, dim, x.data_ptr(), y.data_ptr())
        close(y, module(x))


def heads(dim=64, count=4, kv=None, **fields):
    fields = {"rope": RopeConfig(dim=dim // 4 * 2) if dim >= 4 else None, **fields}
    return AttentionConfig(num_heads=count, head_dim=dim, num_kv_heads=kv, mask=Causal(), **fields)


# name: (layer fields, stack fields)
LAYERS = {
    **{f"head of {d}": ({"attention": heads(d)}, {}) for d in (1, 6, 32, 40, 64, 80, 128)},
    "grouped": ({"attention": heads(16, 6, 2)}, {}),
    "one key head": ({"attention": heads(16, 6, 1)}, {}),
    "neighbours turned": ({"attention": heads(16, rope=RopeConfig(dim=16, interleaved=True))}, {}),
    "window": ({"attention": heads(16, rope=None).replace(mask=Causal() & Window(4))}, {}),
    "norm of heads": ({"attention": heads(16, qk_norm=RMS)}, {}),
    "norm of all heads": ({"attention": heads(16, 4, 2, qk_norm=NormConfig(), qk_norm_over="all")}, {}),
    "capped": ({"attention": heads(16, softcap=5.0, scale=0.5)}, {}),
    "distances": (
        {"attention": heads(16, rope=None)},
        {"bias": RelativeBiasConfig(num_heads=4, num_buckets=8, max_distance=20, bidirectional=False)},
    ),
    "slopes": ({"attention": heads(16, rope=None)}, {"bias": AlibiConfig(num_heads=4)}),
    "cross": ({"attention": heads(16), "cross": heads(16, rope=None).replace(mask=None), "memory_dim": 24}, {}),
    "parallel": ({"attention": heads(16), "feed_forward": FeedForwardConfig(hidden_dim=70), "parallel": True}, {}),
    **{
        f"{order} {scale}": (
            {"attention": heads(8), "feed_forward": FeedForwardConfig(hidden_dim=70), "order": order, "scale": scale}
            | {"scale_init": 0.7},
            {},
        )
        for order, scale in (("pre", "layer"), ("post", "none"), ("branch", "tanh"), ("sandwich", "tanh_layer"))
    },
    **{
        f"{act}{' gated' if gated else ''}": (
            {"feed_forward": FeedForwardConfig(hidden_dim=90, activation=act, gated=gated)},
            {},
        )
        for act in layout.ACTIVATIONS
        for gated in (False, True)
    },
}


def begun(stack, counts, ragged_memory=True):
    """A cache that holds `counts[b]` tokens of each row, read by torch, and a function that makes the next context."""
    rows, dim = len(counts), stack.config.dim
    cache, memory = KVCache(), torch.randn(rows, 9, 24)
    valid = torch.arange(9) < torch.tensor([[3 + i] for i in range(rows)])

    def context(cache, count):
        starts = torch.tensor(cache.lengths or [0] * rows)[:, None]
        ctx = cached(starts + torch.arange(count), [count] * rows if cache.lengths else counts, cache)
        return with_memory(ctx, memory, valid, None)

    stack(torch.randn(rows, max(counts), dim), context(cache, max(counts)))
    return cache, context


@pytest.mark.parametrize("counts", [(5,), (3, 7, 1)], ids=["one", "ragged"])
@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_layers(level, name, counts):
    layer, stack_fields = LAYERS[name]
    layers = (LayerConfig(norm=NormConfig(), **layer), LayerConfig(norm=RMS, **layer))
    stack = build(StackConfig(dim=40, layers=layers, mask=Causal(), **stack_fields)).eval()
    for parameter in stack.parameters():
        if parameter.ndim == 1:
            parameter.add_(torch.randn_like(parameter) * 0.3)
    native = NativeStack(stack, Store("fp32"))
    assert native.unknown == []
    native.most = MANY
    cache, context = begun(stack, list(counts))
    other = copy.deepcopy(cache)
    reading = []
    native.torch = lambda x, ctx: reading.append(x)
    for count in (1, 1, 3, 70, 1):  # 70: by tiles
        x = torch.randn(len(counts), count, 40)
        expected = stack(x, context(cache, count))
        ctx = context(other, count)
        stack.prepare(ctx)
        before = x.clone()
        close(native(x, ctx), expected)
        assert torch.equal(x, before), "the input was changed"
    for layer_number in cache._held:
        for a, b in zip(cache.room(layer_number), other.room(layer_number), strict=True):
            close(a[:, :, : min(cache.lengths)], b[:, :, : min(cache.lengths)])
    assert not reading


@torch.no_grad()
def test_layers_of_bfloat16(level):
    """Keys and values of bfloat16; all but the inputs of products is float32, so torch's float32 is the formula."""
    fields = {"attention": heads(40, 4, 2), "feed_forward": FeedForwardConfig(hidden_dim=70, gated=True)}
    stack = build(StackConfig(dim=40, layers=(LayerConfig(norm=RMS, **fields),) * 2)).eval().bfloat16()
    wide = rounded(copy.deepcopy(stack).float(), "bf16")
    native = NativeStack(stack, Store("auto"))
    cache, context = begun(wide, [3, 7, 1])
    other = copy.deepcopy(cache)
    other._held = {i: (k.bfloat16(), v.bfloat16()) for i, (k, v) in other._held.items()}
    cache._held = {i: (k.float(), v.float()) for i, (k, v) in other._held.items()}
    x = torch.randn(3, 1, 40).bfloat16()
    expected, found = wide(x.float(), context(cache, 1)), native(x, context(other, 1))
    assert found.dtype == torch.bfloat16
    close(found.float(), expected, 1e-2)
    k, v = other.room(0)
    for b, n in enumerate(other.lengths):
        assert torch.equal(k[b, :, n - 1], cache.room(0)[0][b, :, n - 1].bfloat16())
        assert torch.equal(v[b, :, n - 1], cache.room(0)[1][b, :, n - 1].bfloat16())


def linear_of(kind="fp32", rows=4, inputs=8):
    store = Store(kind)
    return store, store.linear(Linear(inputs, rows).requires_grad_(False))


def test_bad_arguments_are_named():
    rg, x = layout.kernels(), torch.zeros(64, 64)
    store, good = linear_of()
    at, p = layout.address, x.data_ptr()
    with pytest.raises(ValueError, match="rg_linear: an address is missing"):
        rg.rg_linear(at(good), 1, 1, None, p)
    for rows, threads in ((-1, 1), (1 << 25, 1), (1, 0), (1, 10**6)):
        with pytest.raises(ValueError, match="rg_linear: rows or threads are out of range"):
            rg.rg_linear(at(good), rows, threads, p, p)
    for field, value, message in (
        ("kind", 9, "a kind of weight"),
        ("kind", 0, "a kind of weight"),
        ("weight", None, "an address is missing"),
        ("weight", store.parts[0].data_ptr() + 1, "not aligned"),
        ("out", 0, "a size is out of range"),
        ("in_", 1 << 40, "a size is out of range"),
    ):
        bad = layout.Linear.from_buffer_copy(good)
        setattr(bad, field, value)
        with pytest.raises(ValueError, match=f"rg_linear: .*{message}"):
            rg.rg_linear(at(bad), 1, 1, p, p)
    for task, structure in ((9, None), (layout.TASKS["norm"], None), (layout.TASKS["copy"], None)):
        calls = (layout.Call * 1)(layout.Call(task, structure, in_=p))
        with pytest.raises(ValueError, match=r"rg_run: (a kind of weight|an address is missing)"):
            rg.rg_run(calls, 1, 1, 8, 1)
    with pytest.raises(ValueError, match="rg_set_level: this processor does not have"):
        rg.rg_set_level(7)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"length": 0}, "rows or threads"),
        ({"rows": 3, "length": 2}, "rows or threads"),
        ({"rows": 2049}, "rows or threads"),
        ({"threads": 0}, "rows or threads"),
        ({"keys": 9}, "a size is out of range"),
        ({"keys": 0}, "a size is out of range"),
        ({"start": 8}, "outside the cache"),
        ({"start": -1}, "outside the cache"),
        ({"by_key": -1}, "a number is out of range"),
        ({"rope_dim": 3}, "do not fit"),
        ({"rope_dim": 18}, "do not fit"),
        ({"rope_dim": 2}, "an address is missing"),
        ({"places": 0}, "outside the cache"),
        ({"origin_by_key": -1}, "a number is out of range"),
    ],
)
@torch.no_grad()
def test_bad_views_are_named(fields, message):
    stack = build(StackConfig(dim=40, layers=(LayerConfig(norm=RMS, attention=heads(16)),))).eval()
    branch = NativeStack(stack, Store("fp32")).branches[0][0]
    assert isinstance(branch, AttentionBranch)
    keys, x = torch.zeros(1, 4, 8, 16), torch.zeros(64, 40)
    good = {"rows": 1, "length": 1, "threads": 1, "keys": 4, "capacity": 8, "by_row": 512, "by_head": 128, "by_key": 16}
    origins = (ctypes.c_int64 * 4)()
    if fields.keys() & {"places", "origin_by_key"}:
        good |= {"origins": ctypes.addressof(origins), "origin_by_key": 1, "places": 1}

    def run(view):
        held, places = (keys.data_ptr(),) * 2, (x.data_ptr(),) * 2
        at, task = ctypes.addressof, layout.TASKS["attention"]
        calls = (layout.Call * 1)(layout.Call(task, at(branch.structure), at(view), *held, *places))
        layout.kernels().rg_run(calls, 1, 1, 40, 1)

    with pytest.raises(ValueError, match=f"rg_run: .*{message}"):
        run(layout.View(**{**good, **fields}))
    columns = (ctypes.c_int64 * 1)(8)
    with pytest.raises(ValueError, match="outside the cache"):
        run(layout.View(**{**good, "origins": None}, columns=ctypes.addressof(columns)))
