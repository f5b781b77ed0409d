"""Workers on this machine: a process each, which ends with its parent."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from backbone.errors import FieldError
from longlive_rag.engines.messages import End, FromWorker, ToWorker
from longlive_rag.engines.supervisor import Limits, Supervisor
from longlive_rag.environment import use_gpu
from longlive_rag.sessions.processes import end_with_parent

JOIN_S = 5.0
NICENESS = 5


def local_engine(
    state: Path,
    workers: int | None = None,
    device: str = "auto",
    limits: Limits | None = None,
    license_policy: str | None = None,
) -> Supervisor:
    """An engine whose workers are processes on this machine.

    Args:
        state: see `Supervisor`.
        workers: how many; None is one per GPU, or one if there is no GPU or `device` is `cpu`.
        device: `auto`, `cpu` or `cuda`.
        limits, license_policy: see `Supervisor`.

    Raises:
        ValueError: if there is no such device, there are fewer GPUs than workers, or as `Supervisor`.
    """
    return Supervisor(LocalWorkers(devices_of(device, workers)), state, limits, license_policy)


def devices_of(device: str, workers: int | None) -> list[str]:
    """The device of each worker, such as `cuda:1`: a GPU each, or the CPU for all; this process touches no GPU.

    A single worker may choose its own: `auto`.

    Raises:
        FieldError: if there is no such device, or there are fewer GPUs than workers.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise FieldError("device", device, "it must be auto, cpu or cuda")
    if workers is not None and workers < 1:
        raise FieldError("workers", workers, "it must be at least 1")
    if (device, workers) == ("auto", 1):
        return ["auto"]  # it finds out itself, which saves waiting for the answer here
    gpus = 0 if device == "cpu" else count_gpus()
    if device == "cuda" and not gpus:
        raise FieldError("device", device, "this machine has no working GPU; try cpu")
    if not gpus:
        return ["cpu"] * (workers or 1)
    if workers is not None and workers > gpus:
        raise FieldError("workers", workers, f"each needs a GPU, and this machine has {gpus}")
    return [f"cuda:{number}" for number in range(workers or gpus)]


def count_gpus() -> int:
    """How many GPUs torch sees, counted in another process; OSError if torch can't be used."""
    words = [sys.executable, "-c", "import torch; print(torch.cuda.device_count())"]
    ran = subprocess.run(words, capture_output=True, text=True)
    if ran.returncode:
        raise OSError(f"torch can't be used: {ran.stderr.strip().splitlines()[-1]}")
    return int(ran.stdout.split()[-1])


class LocalWorkers:
    """Processes on this machine; see `Workers`.

    Args:
        devices: the device of each worker.
        method: start method of `multiprocessing`.
    """

    kind = "local"
    idle_s: float | None = None

    def __init__(self, devices: list[str], method: str = "spawn") -> None:
        self._devices, self.count, self._method = devices, len(devices), method
        self._links: dict[int, LocalLink] = {}
        atexit.register(self.close)  # before multiprocessing waits for processes that ignore SIGTERM

    def start(self, number: int) -> LocalLink:
        """Start a worker."""
        self._links[number] = LocalLink(self._devices[number], self._method)
        return self._links[number]

    def close(self) -> None:
        """End all workers that are left."""
        for link in list(self._links.values()):
            link.kill()
        atexit.unregister(self.close)


class LocalLink:
    """A worker's process; see `WorkerLink`."""

    def __init__(self, device: str, method: str) -> None:
        context: Any = multiprocessing.get_context(method)
        self._pipe, theirs = context.Pipe()
        self._sending = threading.Lock()
        self._process = context.Process(target=_run, args=(device, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def tell(self, message: ToWorker) -> None:
        """Send a message."""
        try:
            with self._sending:
                self._pipe.send(message)
        except OSError:  # `messages` ends, too
            return

    def messages(self) -> Iterator[FromWorker | None]:
        """Its messages, until it is lost."""
        try:
            while True:
                yield self._pipe.recv() if self._pipe.poll(1.0) else None
        except (EOFError, OSError):
            self._process.join(JOIN_S)  # its memory and locks are free once it has ended
        finally:
            self._pipe.close()

    def kill(self) -> None:
        """End it, now."""
        self._process.kill()
        self._process.join(JOIN_S)


def _run(device: str, pipe: Connection) -> None:
    """A worker's process. Only the server ends it: Ctrl-C and SIGTERM are ignored.

    It runs at lower priority than the server, which must answer at once even when takes fill every core.
    """
    os.nice(NICENESS)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end_with_parent()
    place = device
    if device.startswith("cuda:"):
        use_gpu(int(device.removeprefix("cuda:")))
        device = "cuda"
    from longlive_rag.engines.worker import Worker

    sending = threading.Lock()

    def say(message: FromWorker) -> None:
        with sending:
            pipe.send(message)

    worker = Worker(device, place, say)

    def listen() -> None:
        try:
            while not isinstance(message := pipe.recv(), End):
                worker.tell(message)
            worker.tell(message)
        except (EOFError, OSError):
            os._exit(1)

    threading.Thread(target=listen, daemon=True).start()
    worker.run()
