"""How processes meet, and the errors where they cannot; the meeting itself is tested in tests/distributed."""

import os
import socket

import pytest
import torch

from roma.errors import DistributedError
from roma.world import meet
from roma.world.meet import joined


def test_an_error_of_its_own_passes_a_world_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(RuntimeError, match="NCCL is only a word here"), joined("cpu"):
        raise RuntimeError("NCCL is only a word here")


def test_a_rank_without_a_meeting_point_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.setenv("MASTER_PORT", "29500")
    with pytest.raises(DistributedError, match="rank 1: MASTER_ADDR '' and MASTER_PORT '29500'"), joined("cpu"):
        raise AssertionError


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_cuda_that_is_missing_is_one_line() -> None:
    with pytest.raises(DistributedError, match="--device cuda: torch finds no CUDA device here"), joined("cuda"):
        raise AssertionError


def test_gloo_listens_on_the_interface_that_faces_the_meeting_point(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "kept0")
    meet._use_interface_towards("127.0.0.1")
    assert os.environ["GLOO_SOCKET_IFNAME"] == "kept0"
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")
    meet._use_interface_towards("127.0.0.1")
    assert os.environ["GLOO_SOCKET_IFNAME"] == "lo"
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")
    meet._use_interface_towards("no-such-host.invalid")  # left to gloo, whose own error names the address
    assert os.environ["GLOO_SOCKET_IFNAME"] == ""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        assert meet._address_of(probe, "lo") == "127.0.0.1"
        assert meet._address_of(probe, "none0") == ""


@pytest.mark.parametrize(("machines", "warned"), [("1", False), ("2", True)])
def test_a_name_that_no_other_machine_can_use_is_warned_of(
    machines: str, warned: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")
    monkeypatch.setenv("GROUP_WORLD_SIZE", machines)
    resolve = socket.socket.connect

    def connect(self: socket.socket, address: tuple[str, int]) -> None:  # as /etc/hosts of a fresh Debian has it
        resolve(self, ("127.0.1.1", address[1]) if address[0] == "node-a" else address)

    monkeypatch.setattr(meet.socket, "socket", type("Socket", (socket.socket,), {"connect": connect}))
    meet._use_interface_towards("node-a")
    assert ("node-a is 127.0." in caplog.text) is warned
    assert ("give each machine's torchrun --local-addr=ADDRESS" in caplog.text) is warned
