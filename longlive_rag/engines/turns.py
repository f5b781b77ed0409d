"""Fair queueing: owners take turns, so that nobody waits behind all sessions of somebody else."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Mapping, Sequence


def in_turns(owners: Sequence[str], running: Mapping[str, int], served: Mapping[str, int]) -> list[int]:
    """The order in which waiting sessions are begun, as indices into `owners`.

    Next is the oldest session of the owner with the fewest running sessions; among equals, of the one whose last turn
    was longest ago, then of the one who came first.

    Args:
        owners: owner of each waiting session, oldest first.
        running: number of running sessions by owner.
        served: number of each owner's last turn; owners who never had one are left out.
    """
    own: dict[str, deque[int]] = {}
    for place, owner in enumerate(owners):
        own.setdefault(owner, deque()).append(place)
    heads = [(running.get(owner, 0), served.get(owner, -1), places[0], owner) for owner, places in own.items()]
    heapq.heapify(heads)
    order: list[int] = []
    turn = max(served.values(), default=-1)
    while heads:
        ahead, _, _, owner = heapq.heappop(heads)
        order.append(own[owner].popleft())
        turn += 1
        if own[owner]:
            heapq.heappush(heads, (ahead + 1, turn, own[owner][0], owner))
    return order
