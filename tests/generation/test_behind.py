"""Items on their way through threads: order, what an item that fails leaves undone, and that nothing stays behind."""

from __future__ import annotations

import gc
import threading
import time
import weakref

import pytest

from longlive_rag.generation.behind import Behind

PATIENCE_S = 60


def threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("longlive-rag")}


@pytest.fixture(autouse=True)
def nothing_stays():
    before = threads()
    yield
    assert threads() == before


class Gate:
    """A stage that lets an item through when it is told to."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.begun = [threading.Event() for _ in range(9)]
        self.open = [threading.Event() for _ in range(9)]

    def __call__(self, item: int) -> int:
        self.begun[item].set()
        assert self.open[item].wait(PATIENCE_S)
        self.seen.append(item)
        return item


@pytest.mark.parametrize("with_threads", [False, True])
def test_items_come_through_in_order(with_threads: bool) -> None:
    with Behind({"add": lambda n: n + 1, "double": lambda n: n * 2}, with_threads) as behind:
        for number in range(3):
            behind.put(number)
        assert behind.under_way == 3
        assert list(behind.down_to(1)) == [2, 4]
        assert behind.get() == 6
        assert behind.under_way == 0


def test_each_stage_works_on_an_item_of_its_own() -> None:
    first, second = Gate(), Gate()
    with Behind({"first": first, "second": second}) as behind:
        for number in range(2):
            behind.put(number)
        first.open[0].set()
        assert second.begun[0].wait(PATIENCE_S)  # the second has item 0
        assert first.begun[1].wait(PATIENCE_S)  # while the first has item 1
        first.open[1].set()
        assert not second.begun[1].is_set()  # a stage has one at a time
        for gate in second.open:
            gate.set()
        assert list(behind.down_to(0)) == [0, 1]


@pytest.mark.parametrize("failing", ["first", "second"])
def test_what_fails_is_raised_in_its_place_and_ends_the_stage(failing: str) -> None:
    done: dict[str, list[int]] = {"first": [], "second": []}

    def stage(name: str):
        def work(item: int) -> int:
            if name == failing and item == 1:
                raise OSError(f"{name} is full")
            done[name].append(item)
            return item

        return work

    with Behind({"first": stage("first"), "second": stage("second")}) as behind:
        for number in range(4):
            behind.put(number)
        assert behind.get() == 0
        with pytest.raises(OSError, match=f"{failing} is full") as raised:
            behind.get()
    assert "work" in [frame.name for frame in raised.traceback]  # where it was raised, in its own thread
    assert done == {"first": [0] if failing == "first" else [0, 1, 2, 3], "second": [0]}


def test_nothing_more_is_waited_for_once_an_item_has_failed() -> None:
    failed = threading.Event()

    def fail(item: int) -> int:
        if item:
            failed.set()
            raise ValueError("no")
        return item

    with Behind({"fail": fail}) as behind:
        behind.put(0)
        behind.put(1)
        assert failed.wait(PATIENCE_S)
        while not behind.has_failed:
            time.sleep(0.001)
        rest = behind.down_to(9)
        assert next(rest) == 0
        with pytest.raises(ValueError, match="no"):
            next(rest)


@pytest.mark.parametrize("error", [KeyboardInterrupt, GeneratorExit, RuntimeError])
def test_what_is_under_way_comes_through_however_it_ends(error: type[BaseException]) -> None:
    seen: list[int] = []

    def make() -> None:
        with Behind({"pass": lambda item: item, "see": seen.append}) as behind:
            for number in range(5):
                behind.put(number)
            raise error

    with pytest.raises(error):
        make()
    assert seen == list(range(5))


def test_what_failed_first_is_told() -> None:
    """The later item's failure, and what the failure behind led to, are not."""
    gate = Gate()

    def first(item: int) -> int:
        if item == 2:
            raise ValueError("item 2")
        return item

    def second(item: int) -> int:
        gate(item)
        raise OSError("item 1") if item == 1 else RuntimeError(f"item {item}")

    def make() -> None:
        with Behind({"first": first, "second": second}) as behind:
            behind.put(1)
            behind.put(2)
            while not behind.has_failed:  # item 2 is there first
                time.sleep(0.001)
            gate.open[1].set()
            raise ArithmeticError("what was made of item 1")

    with pytest.raises(OSError, match="item 1") as told:
        make()
    assert isinstance(told.value.__cause__, ArithmeticError)


def test_ctrl_c_while_the_rest_comes_through_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    join, seen, interrupts = threading.Thread.join, [], [KeyboardInterrupt(), KeyboardInterrupt()]

    def interrupted(thread: threading.Thread, timeout: float | None = None) -> None:
        if interrupts:
            raise interrupts.pop()
        join(thread, timeout)

    monkeypatch.setattr(threading.Thread, "join", interrupted)
    with Behind({"see": seen.append}) as behind:
        for number in range(5):
            behind.put(number)
    assert seen == list(range(5))
    assert not interrupts


def test_nothing_is_held_once_it_is_taken_out() -> None:
    class Pixels:
        pass

    gc.disable()
    try:
        with Behind({"pass": lambda item: item, "again": lambda item: item}) as behind:
            item = Pixels()
            alive = weakref.ref(item)
            behind.put(item)
            del item
            assert type(behind.get()) is Pixels
            behind.put(None)  # both threads have come back for it
            assert behind.get() is None
            assert alive() is None
    finally:
        gc.enable()


def test_it_may_be_left_in_one_of_its_own_threads() -> None:
    """As when a stream that nobody has closed is found by the garbage collector."""
    behind = Behind({"leave": lambda item: behind.__exit__(None, None, None)})
    behind.put(0)
    behind.get()
    for thread in behind._threads:
        thread.join(PATIENCE_S)
