"""Two processes in step over gloo: what the second one says and does without a rollout."""

from __future__ import annotations

from multiprocessing import get_context

import pytest
import torch
import torch.distributed as dist

from backbone.parallel import Ranks
from longlive_rag.config import TakeRequest
from longlive_rag.generation.in_step import follow, room_on_all

CPU = torch.device("cpu")


def follow_with_room(port: int, room: int) -> None:
    ranks = Ranks.join(1, 2, CPU, dist.TCPStore("127.0.0.1", port, 2, is_master=False))
    follow(ranks, None, None, lambda request, batch: room * batch)  # type: ignore[arg-type]
    ranks.leave()


@pytest.mark.slow
@pytest.mark.parametrize(("own", "other", "together"), [(9, 5, 20), (3, 5, 12)])
def test_pages_have_the_room_of_the_fullest_gpu_on_each_of_them(own: int, other: int, together: int) -> None:
    store = dist.TCPStore("127.0.0.1", 0, 2, is_master=True, wait_for_workers=False)
    process = get_context("spawn").Process(target=follow_with_room, args=(store.port, other))
    process.start()
    ranks = Ranks.join(0, 2, CPU, store)
    try:
        assert room_on_all(ranks, lambda request, batch: own * batch, TakeRequest("a circle", 1.0), 2) == together
        ranks.tell(None)
    finally:
        ranks.leave()
        process.join(60)
    assert process.exitcode == 0
