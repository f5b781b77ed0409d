"""The page cache: right pages from every tier, within its budgets, and made again when they must be."""

from __future__ import annotations

import gc
import mmap
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from retrieval.budgets import PageBudgets, PagePrecision, host_slots
from retrieval.pages import PageCache, PageShape, _Copies, _new_pinned, _Slot

SHAPE = PageShape(layers=3, tokens=4, heads=2, head_dim=6, dtype=torch.float32, device=torch.device("cpu"))


def page_of(take: int, frame: int, prompt: int = 0) -> Tensor:
    """The one right page of a frame under a prompt."""
    generator = torch.Generator().manual_seed(1000 * prompt + 100 * take + frame)
    return torch.randn(SHAPE.sizes, generator=generator)


class Takes:
    """A batch of takes with a page cache."""

    def __init__(
        self,
        host: int = 0,
        gpu: int | None = None,
        precision: PagePrecision = "same",
        stale: bool = True,
        batch: int = 1,
        first: int = 0,
        past: int | None = None,
    ) -> None:
        self.prompt = 0
        self.batch = range(first, first + batch)
        self.remade: list[tuple[int, list[int]]] = []
        budgets = PageBudgets((gpu or 0) * SHAPE.bytes, host * SHAPE.stored_bytes(precision), precision, stale)
        on_gpu = gpu is not None
        self.pages = PageCache(SHAPE, self.remake, budgets, 2 * batch, has_gpu_tier=on_gpu, past_pages=past)

    def remake(self, take: int, frames: Sequence[int]) -> Tensor:
        self.remade.append((take, list(frames)))
        return torch.stack([page_of(self.batch[take], frame, self.prompt) for frame in frames])

    def put(self, frame: int) -> None:
        page = torch.stack([page_of(take, frame, self.prompt) for take in self.batch], dim=2)
        self.pages.put(frame, page)
        self.pages.settle()
        page.zero_()  # the cache must have its own copy

    def cue(self) -> None:
        self.prompt += 1
        self.pages.prompt_changed()


def test_what_fits_comes_back_bit_for_bit_and_is_never_made_again() -> None:
    takes = Takes(host=10)
    for frame in range(10):
        takes.put(frame)
    ((first, second),) = takes.pages.get([[7, 2]])
    assert (first[0], second[0]) == (7, 2)
    assert torch.equal(first[1], page_of(0, 7))
    assert torch.equal(second[1], page_of(0, 2))
    counters = takes.pages.counters()
    assert (counters.fetched, counters.from_host, counters.remade, counters.evicted) == (2, 2, 0, 0)
    assert counters.host_bytes == 10 * SHAPE.bytes


def test_the_least_recently_used_page_gives_way() -> None:
    takes = Takes(host=3)
    for frame in range(3):
        takes.put(frame)
    takes.pages.get([[0]])
    takes.put(3)
    takes.pages.get([[0, 3]])
    assert takes.remade == []
    takes.pages.get([[1]])
    assert takes.remade == [(0, [1])]
    assert takes.pages.counters().evicted == 2  # 1 for 3, then 2 for 1


def test_nothing_is_kept_without_a_budget_and_misses_are_made_in_one_pass_a_take() -> None:
    takes = Takes(host=0, batch=2)
    takes.put(4)
    got = takes.pages.get([[4, 9], [8, 4]])
    assert takes.remade == [(0, [4, 9]), (1, [8, 4])]
    assert torch.equal(got[1][0][1], page_of(1, 8))
    counters = takes.pages.counters()
    assert (counters.host_bytes, counters.host_pages, counters.remade) == (0, 0, 4)


def test_a_stale_page_is_made_again_when_it_is_next_fetched_and_once() -> None:
    takes = Takes(host=8)
    takes.put(1)
    takes.put(2)
    takes.cue()
    takes.put(3)
    for _ in range(2):
        ((one, three),) = takes.pages.get([[1, 3]])
        assert torch.equal(one[1], page_of(0, 1, prompt=1))
        assert torch.equal(three[1], page_of(0, 3, prompt=1))
    assert takes.remade == [(0, [1])]
    assert takes.pages.counters().stale == 1


def test_stale_pages_may_stay_as_they_were_made() -> None:
    takes = Takes(host=8, stale=False)
    takes.put(1)
    takes.cue()
    ((one,),) = takes.pages.get([[1]])
    assert torch.equal(one[1], page_of(0, 1, prompt=0))
    assert takes.remade == []


def test_prefetched_pages_are_on_the_gpu_when_they_are_asked_for() -> None:
    takes = Takes(gpu=2, host=8)
    for frame in range(6):
        takes.put(frame)
    takes.pages.prefetch([[0, 1]])
    ((zero, one),) = takes.pages.get([[0, 1]])
    assert torch.equal(zero[1], page_of(0, 0))
    assert torch.equal(one[1], page_of(0, 1))
    counters = takes.pages.counters()
    assert (counters.prefetched, counters.from_gpu, counters.from_host) == (2, 2, 0)
    assert counters.gpu_bytes == 2 * SHAPE.bytes


@pytest.mark.parametrize(("precision", "worst"), [("bfloat16", 0.004), ("float8", 0.07)])
def test_a_narrower_host_tier_rounds(precision: PagePrecision, worst: float) -> None:
    takes = Takes(host=4, precision=precision)
    takes.put(1)
    ((one,),) = takes.pages.get([[1]])
    exact = page_of(0, 1)
    assert one[1].dtype == exact.dtype
    assert not torch.equal(one[1], exact)
    assert ((one[1] - exact).abs() <= worst * exact.abs() + 1e-3).all()
    assert takes.pages.counters().host_bytes == SHAPE.stored_bytes(precision) < SHAPE.bytes * 0.6


def test_float8_holds_any_range() -> None:
    takes = Takes(host=2, precision="float8")
    large = 1e6 * page_of(0, 1)
    takes.pages.put(1, large[:, :, None])
    takes.pages.put(2, torch.zeros(SHAPE.sizes)[:, :, None])
    ((one, two),) = takes.pages.get([[1, 2]])
    assert ((one[1] - large).norm() / large.norm()) < 0.05
    assert two[1].eq(0).all()


@pytest.mark.parametrize("gpu", [None, 0, 6])
def test_a_take_of_a_batch_goes_on_alone(gpu: int | None) -> None:
    both = Takes(host=6, gpu=gpu, batch=2)
    for frame in range(3):
        both.put(frame)
    both.cue()
    both.put(3)
    both.put(4)
    both.pages.get([[1, 2], []])
    both.pages.get([[3, 4], []])  # on a GPU: four pages of one take, where a take alone has room for two
    held = both.pages.contents()
    for take in range(2):
        alone = Takes(host=6, gpu=gpu, first=take)
        alone.prompt = both.prompt
        alone.pages.restore(held.of_take(take))
        for frame in (4, 3, 0, 1, 2):
            ((page,),) = alone.pages.get([[frame]])
            assert torch.equal(page[1], page_of(take, frame, prompt=1))
        assert {frame for _, frames in alone.remade for frame in frames} <= {0, 1, 2}
        alone.put(5)
        pages = alone.pages.contents()
        serials = [page.serial for page in (*pages.gpu, *pages.host)]
        assert len(set(serials)) == len(serials)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 12)),
        st.tuples(st.just("get"), st.lists(st.integers(0, 12), min_size=1, max_size=2, unique=True)),
        st.tuples(st.just("prefetch"), st.lists(st.integers(0, 12), min_size=1, max_size=2, unique=True)),
        st.tuples(st.just("cue"), st.none()),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(steps=steps, host=st.integers(0, 5), gpu=st.one_of(st.none(), st.integers(0, 5)), batch=st.integers(1, 2))
def test_whatever_happens_pages_are_right_and_budgets_hold(
    steps: list[tuple[str, object]], host: int, gpu: int | None, batch: int
) -> None:
    takes = Takes(host=host, gpu=gpu, batch=batch)
    there: set[int] = set()
    for act, what in steps:
        if act == "cue":
            takes.cue()
        elif act == "put":
            if what not in there:  # a frame leaves the window once
                there.add(what)
                takes.put(what)
        elif act == "prefetch":
            takes.pages.prefetch([what] * batch)
        else:
            for take, pages in enumerate(takes.pages.get([what] * batch)):
                assert [frame for frame, _ in pages] == what
                for frame, page in pages:
                    assert torch.equal(page, page_of(take, frame, takes.prompt))
        counters = takes.pages.counters()
        assert counters.host_bytes <= host * SHAPE.bytes
        assert counters.gpu_bytes <= (0 if gpu is None else max(2 * batch, gpu) * SHAPE.bytes)
        assert counters.fetched == counters.from_gpu + counters.from_host + counters.remade


# ---- what is taken at the start, and what a checkpoint will be ----


@pytest.mark.parametrize(
    ("gpu", "host", "past", "slots"),
    [(4, 8, 4, 0), (4, 8, 5, 5), (4, 8, 100, 8), (0, 8, 3, 3), (0, 0, 3, 0), (4, 8, 0, 0)],
)
def test_no_more_host_pages_than_a_take_can_come_to_need(gpu: int, host: int, past: int, slots: int) -> None:
    assert host_slots(gpu, host, past) == slots


def test_host_pages_are_allocated_at_the_start_and_none_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    takes = Takes(host=6, gpu=2, past=20)
    takes.pages.allocate()
    assert takes.pages.counters().host_bytes == 6 * SHAPE.bytes
    made = takes.pages._host._new_slot
    monkeypatch.setattr(takes.pages._host, "_new_slot", lambda: pytest.fail(f"{made} was called"))
    for frame in range(12):
        takes.put(frame)
    assert [frame for frame, _ in takes.pages.get([[11, 5]])[0]] == [11, 5]
    assert not takes.remade
    assert Takes(host=6, past=None).pages.counters().host_bytes == 0


@pytest.mark.parametrize("precision", ["same", "float8"])
def test_what_a_checkpoint_will_be_is_known_without_copying(precision: PagePrecision) -> None:
    takes = Takes(host=9, gpu=4, precision=precision, batch=2)
    for frame in range(6):
        takes.put(frame)
    known = {1, 7}
    held = takes.pages.contents(known)
    for take in (0, 1):
        own = held.of_take(take)
        real = sum(tensor.nbytes for page in (*own.gpu, *own.host) for tensor in page.tensors)
        assert 0 < takes.pages.bytes_of(take, known) == real


# ---- what only matters on a GPU, where copies go on behind the host's back ----


def test_a_checkpoint_waits_for_copies_before_it_reads_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    takes, done, content = Takes(host=9, gpu=2), [], _Slot.content
    for frame in range(4):
        takes.put(frame)
    monkeypatch.setattr(_Copies, "wait", lambda copies: done.append("wait"))
    monkeypatch.setattr(_Slot, "content", lambda *given: done.append("read") or content(*given))
    takes.pages.contents()
    assert done == ["wait"] + ["read"] * 4


def test_tensors_that_are_pinned_share_no_page_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in locks whole pages of memory, and each only once."""
    locked: dict[int, range] = {}

    class Runtime:
        def cudaHostRegister(self, start: int, count: int, flags: int) -> int:
            pages = range(start // mmap.PAGESIZE, (start + count - 1) // mmap.PAGESIZE + 1)
            assert not any(set(pages) & set(others) for others in locked.values())
            locked[start] = pages
            return 0

        def cudaHostUnregister(self, start: int) -> int:
            del locked[start]
            return 0

    monkeypatch.setattr(torch.cuda, "cudart", Runtime)
    monkeypatch.setattr(torch.cuda, "check_error", lambda code: None)
    tensors = [_new_pinned((2, 3, 1, 2, 1), torch.bfloat16).fill_(number) for number in range(40)]
    assert len(locked) == 40
    assert all(tensor.eq(number).all() for number, tensor in enumerate(tensors))
    assert {(tuple(tensor.shape), tensor.dtype) for tensor in tensors} == {((2, 3, 1, 2, 1), torch.bfloat16)}
    tensors.clear()
    gc.collect()
    assert not locked
