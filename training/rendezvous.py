"""Processes that torchrun starts again meet each other, not the addresses of the dead.

torchrun keeps one store for all its attempts, and torch reads it without a prefix for each
(pytorch/pytorch#135712). A process of the second attempt may find there what one of the first has
written, and then connects to nobody for as long as its strategy waits: hours. So rank 0 opens a
store of this attempt alone, and tells it to exactly those who live.
"""

import os
import time
from uuid import uuid4

from torch.distributed import PrefixStore, Store, TCPStore

PAUSE = 0.02  # seconds between looks at the store


def meet_apart_from_the_dead() -> TCPStore | None:
    """Under torchrun, set MASTER_PORT to the store of this attempt; elsewhere do nothing.

    Returns:
        the store where this process, rank 0, serves it: it must live as long as training does.

    Raises:
        DistError: another process has not come within torch's default time for stores, 5 minutes.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    rank, processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    agent = PrefixStore("invertible-priors", TCPStore(host, port, is_master=False))
    own = None
    if rank == 0:
        own = TCPStore(host, 0, is_master=True, wait_for_workers=False)
        address = f"{own.port} {uuid4().hex}"
        for other in range(1, processes):
            tell(agent, other, address)
    else:
        address = ask(agent, rank)
    os.environ["MASTER_PORT"] = address.split()[0]
    return own


def tell(agent: Store, rank: int, address: str) -> None:
    """Give the address to whoever calls itself `rank` now, until that process has taken it."""
    while True:
        name = agent.get(str(rank)).decode()  # a dead process's, perhaps: it takes nothing
        agent.set(name, address)
        taken = f"{name} has"
        if agent.check([taken]) and agent.get(taken).decode() == address:
            return
        time.sleep(PAUSE)


def ask(agent: Store, rank: int) -> str:
    """Wait for rank 0's address, under a name that no process has had before."""
    name = uuid4().hex
    agent.set(str(rank), name)
    address = agent.get(name).decode()
    agent.set(f"{name} has", address)
    return address
