"""The guards of conftest.py guard."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch


@pytest.mark.parametrize("call", ["connect", "connect_ex"])
@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "example.invalid"])
def test_other_machines_are_out_of_reach(call: str, host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as client, pytest.raises(RuntimeError, match="only loopback"):
        getattr(client, call)((host, 80))


def test_this_machine_is_in_reach() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname(), timeout=5) as client,
    ):
        assert client.getpeername() == server.getsockname()


def test_missing_data_is_a_skip_that_names_it(data) -> None:
    with pytest.raises(pytest.skip.Exception, match=r"no/such/file\.bin"):
        data("no/such/file.bin")


def test_present_data_is_found(data, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "here.txt").write_text("x")
    monkeypatch.setitem(data.__globals__, "DATA", tmp_path)
    assert data("here.txt").read_text() == "x"


def test_one_thread() -> None:
    assert torch.get_num_threads() == 1


def test_offline_is_known_to_the_hub_client() -> None:
    from huggingface_hub import constants

    assert constants.HF_HUB_OFFLINE


@pytest.mark.parametrize("attempt", [1, 2])
def test_the_random_state_is_the_same_in_every_test(attempt: int) -> None:
    assert torch.rand(1).item() == torch.rand(1, generator=torch.Generator().manual_seed(0)).item()
