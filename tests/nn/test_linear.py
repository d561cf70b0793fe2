"""The linear layer beside its formula in double precision, on every way through it."""

import pytest
import torch
from torch import nn

from regard.nn import Linear
from regard.nn.linear import _plain

SHAPES = [(1, 24), (8, 24), (3, 5, 24), (2, 3, 4, 24), (700, 24), (24,), (0, 24), (2, 0, 24)]


def double(layer, x):
    y = x.double() @ layer.weight.double().T
    return y if layer.bias is None else y + layer.bias.double()


def near(layer, x):
    found, wanted = layer(x), double(layer, x)
    assert found.dtype == x.dtype and found.shape == wanted.shape
    torch.testing.assert_close(found.double(), wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("inside", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_is_the_formula(shape, bias, inside):
    layer = Linear(24, 17, bias=bias)
    with inside():
        near(layer, torch.randn(shape))


def test_takes_any_strides():
    layer = Linear(24, 1)
    with torch.no_grad():
        near(layer, torch.randn(8, 2, 24)[:, -1])
        near(layer, torch.randn(1, 24).expand(5, 24))
        near(layer, torch.randn(24, 6).T)
        layer.weight = nn.Parameter(torch.randn(24, 1).T)
        near(layer, torch.randn(6, 24))


def test_the_direct_way_is_for_plain_inference_alone():
    layer, x = Linear(24, 17), torch.randn(3, 24)
    assert not _plain(x, layer.weight)  # gradients
    with torch.no_grad():
        assert _plain(x, layer.weight) == torch.backends.mkldnn.is_available()
        assert not _plain(x.double(), layer.weight.double()) and not _plain(x[..., :3], layer.weight)
        assert not _plain(x.to("meta"), layer.weight.to("meta"))
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16
    layer(x).sum().backward()
    torch.testing.assert_close(layer.weight.grad, x.sum(0).expand(17, 24))


def test_wrong_shapes_get_torchs_own_message():
    with torch.no_grad(), pytest.raises(RuntimeError, match="shapes"):
        Linear(24, 17)(torch.randn(3, 23))


def test_it_can_be_compiled_away():
    layer, x = Linear(24, 17).eval(), torch.randn(3, 24)
    with torch.no_grad():
        program = torch.export.export(layer, (x,))
        names = {str(node.target) for node in program.graph.nodes}
        assert "aten.linear.default" in names and not any("mkldnn" in name for name in names)
