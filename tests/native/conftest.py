"""The kernels, built once; everything here is skipped, with the reason, where they cannot be."""

from __future__ import annotations

import pytest

from regard import native


@pytest.fixture(scope="session", autouse=True)
def built():
    """Kernels, or a skip that says why there are none."""
    if (why := native.reason()) is not None:
        pytest.skip(f"no kernels: {why}")


@pytest.fixture(params=["portable", "avx2", "avx512", "avx512bf16"])
def level(request):
    """Each level of instructions that this processor has."""
    from regard.native.layout import LEVELS, kernels

    try:
        kernels().rg_set_level(LEVELS.index(request.param))
    except ValueError:
        pytest.skip(f"this processor has no {request.param}")
    yield request.param
    kernels().rg_set_level(-1)
