"""One take on several GPUs: the processes that make it, started here or by torchrun, and how they end.

Rank 0 owns the take: it alone reads and writes files, decodes and shows progress. If it ends, for whatever reason, so
do the others; if another one ends, rank 0 keeps what is finished and ends as well.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import TYPE_CHECKING, Any

from backbone.errors import FieldError
from longlive_rag.config import TakeRequest
from longlive_rag.environment import Launch, launched
from longlive_rag.presets.geometry import read_geometry
from longlive_rag.presets.preset import Preset
from longlive_rag.rights.provenance import Provenance
from longlive_rag.sessions.opening import Note, Opening, open_backbone, quiet_libraries
from longlive_rag.sessions.processes import end_with_parent
from longlive_rag.sessions.speed import check_speed_fits, is_decoder_compiled, speed_up

if TYPE_CHECKING:
    from longlive_rag.pipeline import LongLiveRAGPipeline
    from longlive_rag.takes.record import TakeRun

NOTICED_WITHIN_S = 10.0
"""Time for a collective to fail after a rank is lost; if it hangs instead (NCCL), its process is ended."""
ENDS_WITHIN_S = 5.0
READY = "ready"


@contextmanager
def opened_backbone(
    preset: Preset,
    request: TakeRequest,
    opening: Opening,
    provenance: Provenance,
    note: Note,
    pipe: LongLiveRAGPipeline | None = None,
) -> Iterator[tuple[LongLiveRAGPipeline, TakeRun]]:
    """Open a backbone as `open_backbone` does, on the number of GPUs set by `opening` or torchrun.

    Raises:
        ValueError: if it can't be loaded here, can't meet the request or can't be divided among the GPUs.
        OSError: if another process can't load it.
    """
    launch = launched()
    gpus = count_gpus(opening)
    if gpus == 1:
        yield open_backbone(preset, request, opening, provenance, note, pipe)
        return
    check_gpus(preset, request, opening, gpus)
    with _Followers(preset, opening, provenance.policy, gpus, launch) as followers:
        device = _device(opening, launch.local_rank if launch else 0)
        own = replace(opening, device=device, compile="off")
        pipe, run = open_backbone(preset, request, own, provenance, note, pipe)
        with followers.joined(pipe):
            if opening.compile == "on":  # on all ranks together
                speed_up(pipe, preset, request, replace(own, compile="on"), note)
                run = replace(run, compiled=True, compiled_decoder=is_decoder_compiled(opening))
            yield pipe, replace(run, gpus=gpus)


def check_gpus(preset: Preset, request: TakeRequest, opening: Opening, gpus: int) -> None:
    """Raise FieldError unless a take can be divided among this many GPUs, and they exist."""
    import torch

    from backbone.parallel import check_divides
    from longlive_rag.weights.load import pick_device

    geometry = read_geometry(preset, request.output, request.memory.encoder)
    check_divides(gpus, geometry.heads, geometry.tokens_per_frame)
    if ":" in opening.device:
        raise FieldError("device", opening.device, "for several GPUs it must be auto, cpu or cuda, without a number")
    if pick_device(opening.device).type == "cuda" and launched() is None and gpus > torch.cuda.device_count():
        raise FieldError("gpus", gpus, shown=f"{gpus}, but this machine has {torch.cuda.device_count()}")
    check_speed_fits(preset, request, opening)


def follow_launched(preset: Preset, opening: Opening, license_policy: str | None) -> bool:
    """In a process that torchrun started with a rank above 0, do what rank 0 does and return True.

    Raises:
        ValueError: if the backbone can't be loaded here.
    """
    launch = launched()
    if launch is None or launch.rank == 0:
        return False
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # rank 0 receives it as well
    pipe = _load(preset, replace(opening, device=_device(opening, launch.local_rank)), license_policy)
    _follow_rank_0(pipe, launch.rank, launch.size, None)
    return True


def count_gpus(opening: Opening) -> int:
    """Number of processes that make the take, set by `opening` or torchrun; FieldError if they disagree."""
    launch = launched()
    if launch is None:
        return opening.gpus
    if opening.gpus not in (1, launch.size):
        raise FieldError(
            "gpus", opening.gpus, shown=f"{opening.gpus}, but torchrun has started {launch.size} processes"
        )
    return launch.size


def _device(opening: Opening, number: int) -> str:
    """The device of a process, given its number on its machine."""
    from longlive_rag.weights.load import pick_device

    kind = pick_device(opening.device).type
    return f"{kind}:{number}" if kind == "cuda" else kind


class _Followers:
    """The other ranks, as managed by rank 0.

    Args:
        preset, opening, license_policy: the backbone, which each rank loads.
        size: number of ranks.
        launch: torchrun's launch; None starts the processes here.
    """

    def __init__(
        self, preset: Preset, opening: Opening, license_policy: str | None, size: int, launch: Launch | None
    ) -> None:
        self._size, self._launch = size, launch
        self._store: Any = None
        self._processes: list[SpawnProcess] = []
        self._lines: list[Connection] = []  # on which they report that they are ready, and why they end
        self._start: Any = None if launch else partial(self._begin, preset, opening, license_policy)
        self._lost: str | None = None
        self._noticed, self._over = threading.Event(), threading.Event()

    def __enter__(self) -> _Followers:
        if self._start:
            self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for process in self._processes:
            process.join(0 if process.exitcode is None and not self._noticed.is_set() else ENDS_WITHIN_S)
        for process in self._processes:
            if process.is_alive():
                process.kill()  # it writes no file
            process.join()

    def _begin(self, preset: Preset, opening: Opening, license_policy: str | None) -> None:
        import torch.distributed as dist

        self._store = dist.TCPStore("127.0.0.1", 0, self._size, is_master=True, wait_for_workers=False)
        spawn = get_context("spawn")
        with _ignored_by_children():
            for rank in range(1, self._size):
                line, other_end = spawn.Pipe(duplex=False)
                own = replace(opening, device=_device(opening, rank))
                place = (rank, self._size, self._store.port)
                process = spawn.Process(target=_follow_here, args=(preset, own, license_policy, place, other_end))
                process.start()
                other_end.close()
                self._processes.append(process)
                self._lines.append(line)

    @contextmanager
    def joined(self, pipe: LongLiveRAGPipeline) -> Iterator[None]:
        """Run `pipe`'s transformer on all ranks in the `with` body."""
        from backbone.compiling import uncompile
        from backbone.parallel import Ranks
        from longlive_rag.generation.in_step import LeadingRollout

        for number, line in enumerate(self._lines, 1):
            if (said := _heard(line)) != READY:
                raise OSError(_ended(number, said))
        threading.Thread(target=self._watch, daemon=True).start()
        ranks = Ranks.join(0, self._size, pipe.transformer.device, self._store)
        pipe.transformer.ranks = ranks
        pipe.new_rollout = partial(LeadingRollout, lost=self._why)
        try:
            with _stopped_by_sigterm(self._launch):
                yield
            ranks.tell(None)
            for process in self._processes:
                process.join(ENDS_WITHIN_S)
            ranks.leave()
        finally:
            self._over.set()
            if pipe.transformer.compiled_for:
                uncompile(pipe.transformer)
            pipe.transformer.ranks = None
            del pipe.new_rollout

    def _watch(self) -> None:
        """Notice a rank that ends before it is told to."""
        numbers = {line: number for number, line in enumerate(self._lines, 1)}
        while numbers and not self._over.is_set():
            for line in connection.wait(list(numbers)):
                number = numbers.pop(line)  # type: ignore[call-overload]
                if (said := _heard(line)) is not None or not self._over.is_set():  # type: ignore[arg-type]
                    self._lost = self._lost or _ended(number, said)
                    self._noticed.set()
                    self._end_late()
                    return

    def _end_late(self) -> None:
        """End this process if it hangs; the take is then left as after a kill."""
        if not self._over.wait(NOTICED_WITHIN_S):
            print(f"\nError: {self._lost}", file=sys.stderr, flush=True)
            os._exit(1)

    def _why(self) -> str | None:
        if self._launch is not None:
            return "another process of torchrun ended"
        return self._lost if self._noticed.wait(ENDS_WITHIN_S / 2) else None


def _heard(line: Connection) -> str | None:
    """The next message of a rank; None if it ended without one."""
    try:
        said: str = line.recv()
        return said
    except (EOFError, OSError):
        return None


def _ended(rank: int, said: str | None) -> str:
    return f"process {rank} of the take ended: {said or 'it was killed (out of memory?)'}"


def _follow_here(
    preset: Preset, opening: Opening, license_policy: str | None, place: tuple[int, int, int], line: Connection
) -> None:
    """Run in a process that rank 0 has started."""
    import torch.distributed as dist

    end_with_parent()
    rank, size, port = place
    try:
        pipe = _load(preset, opening, license_policy)
        line.send(READY)
        _follow_rank_0(pipe, rank, size, dist.TCPStore("127.0.0.1", port, size, is_master=False))
    except BaseException as error:
        with suppress(OSError):
            line.send(" ".join(str(error).split()) or type(error).__name__)
        os._exit(1)  # don't wait for ranks that are in the middle of something


def _follow_rank_0(pipe: LongLiveRAGPipeline, rank: int, size: int, store: Any) -> None:
    from backbone.parallel import Ranks
    from longlive_rag.generation.in_step import follow

    ranks = Ranks.join(rank, size, pipe.transformer.device, store)
    pipe.transformer.ranks = ranks
    follow(ranks, pipe.transformer, pipe.encoder, pipe.room_for_pages)
    ranks.leave()


def _load(preset: Preset, opening: Opening, license_policy: str | None) -> LongLiveRAGPipeline:
    """Load what a rank above 0 needs of the backbone: no text encoder, and the VAE stays in host memory."""
    import torch

    from longlive_rag.pipeline import LongLiveRAGPipeline
    from longlive_rag.weights.load import pick_device, use_threads

    dtypes = {"transformer": getattr(torch, opening.precision.dtype), "default": torch.float32}
    with quiet_libraries():
        pipe = LongLiveRAGPipeline.from_pretrained(
            preset.folder, text_encoder=None, license_policy=license_policy, dtype=dtypes
        )
    use_threads(pipe)
    pipe.transformer.set_attention_backend(opening.attention)
    for part in (pipe.transformer, pipe.encoder):
        if part is not None:
            part.to(pick_device(opening.device))
    return pipe


def _ignored_by_children() -> AbstractContextManager[None]:
    """Make processes started in the `with` body ignore Ctrl-C, which rank 0 handles."""
    return _handled_by(signal.SIGINT, signal.SIG_IGN)


def _stopped_by_sigterm(launch: Launch | None) -> AbstractContextManager[None]:
    """Under torchrun, treat SIGTERM, which it sends on Ctrl-C or when another rank has ended, like Ctrl-C."""
    return nullcontext() if launch is None else _handled_by(signal.SIGTERM, signal.default_int_handler)


@contextmanager
def _handled_by(number: signal.Signals, handler: Any) -> Iterator[None]:
    """Set the handler of a signal for the `with` body; outside the main thread, where Python can't, do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)
