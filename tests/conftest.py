"""What every test shares: one thread, a fixed seed, no network, and tests of real data skipped where there is none."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partialmethod
from pathlib import Path

# Read by the libraries when they are imported, so set before any of them is.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("MPLBACKEND", "agg")

import ipaddress
import socket

import pytest
import torch

torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("REGARD_TEST_DATA", ROOT.parent / "shared"))

try:
    from hypothesis import settings
except ModuleNotFoundError:  # property tests skip themselves
    pass
else:
    settings.register_profile("regard", deadline=None, derandomize=True)
    settings.load_profile("regard")


def real(path: str) -> Path:
    """The file or folder `path` of the test data, or a skip that names what is missing."""
    found = DATA / path
    if not found.exists():
        pytest.skip(f"no test data at {found} (set REGARD_TEST_DATA)")
    return found


@pytest.fixture(scope="session")
def data() -> Callable[[str], Path]:
    """`data("speech/one.wav")` is that file of the test data; the test is skipped where it is absent."""
    return real


@pytest.fixture(autouse=True)
def seed() -> None:
    """Every test starts from the same random state, alone or in the suite."""
    torch.manual_seed(0)


def is_local(address: object) -> bool:
    """Whether a socket address stays on this machine: a Unix path, or a loopback host."""
    if not isinstance(address, tuple):
        return True
    host = str(address[0])
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host in ("localhost", "")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that reaches for anything but this machine fails, rather than passing here and failing elsewhere."""

    def guarded(self: socket.socket, address: object, *, call: Callable[..., object]) -> object:
        if not is_local(address):
            raise RuntimeError(f"a test tried to connect to {address!r}; only loopback is allowed")
        return call(self, address)

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, partialmethod(guarded, call=getattr(socket.socket, name)))
