"""Who is next: owners take turns, so that nobody waits behind all that somebody else has asked for."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Mapping, Sequence


def in_turns(owners: Sequence[str], running: Mapping[str, int], served: Mapping[str, int]) -> list[int]:
    """The order in which sessions that wait are begun, as their places in `owners`.

    Next is the oldest session of the owner who has the fewest running; among equals of the one whose last turn is
    longest ago, or else who came first.

    Args:
        owners: of the sessions that wait, oldest first.
        running: how many sessions of an owner are running.
        served: number of an owner's last turn; who never had one is not in it.
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
