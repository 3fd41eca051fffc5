"""Restarted processes find each other in a store that still holds the words of the dead."""

import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from torch.distributed import HashStore, TCPStore

from training.rendezvous import ask, meet_apart_from_the_dead, tell


def test_the_dead_are_not_listened_to() -> None:
    store = HashStore()
    with ThreadPoolExecutor() as threads:
        for attempt in ("4242 first", "1717 second"):

            def late(rank: int) -> str:
                time.sleep(0.1)  # rank 0 meets the name of a dead process before
                return ask(store, rank)

            asked = [threads.submit(late, rank) for rank in (1, 2)]
            for rank in (1, 2):
                tell(store, rank, attempt)
            assert [address.result(timeout=10) for address in asked] == [attempt] * 2


def test_under_torchrun_rank_0_serves_a_store_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    assert meet_apart_from_the_dead() is None  # Lightning's own processes, or Slurm's

    agent = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for key, value in (
        ("TORCHELASTIC_USE_AGENT_STORE", "True"),
        ("MASTER_ADDR", "127.0.0.1"),
        ("MASTER_PORT", str(agent.port)),
        ("RANK", "0"),
        ("WORLD_SIZE", "1"),
    ):
        monkeypatch.setenv(key, value)
    own = meet_apart_from_the_dead()
    assert own is not None and own.port != agent.port
    assert os.environ["MASTER_PORT"] == str(own.port)
