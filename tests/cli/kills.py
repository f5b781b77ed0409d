"""Commands that are killed at random moments and gone on with give the takes that they give uninterrupted.

`python -m tests.cli.kills --kills 100 --seed 0` kills a hundred, prints a line for each and a table.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from longlive_rag.takes.folder import CHECKPOINTS, CONTACT_SHEET, LATENTS, MEMORY_MAP, RECORD, VIDEO
from longlive_rag.takes.record import plain, read_record
from retrieval.lock import LOCK
from retrieval.store import LatentStore, block_numbers
from tests.cli.killed import ANYWHERE, NEVER, start
from tests.conftest import random_pipeline

ROOT = Path(__file__).parents[2]
PATIENCE_S = 600
PROMPT, OTHER, THIRD = "a red circle walks in a meadow", "a blue square jumps", "a green triangle sleeps"
OF_ITS_MAKING = ("started", "history", "timings", "branched_from", "checkpoints", "checksum")
"""What a record says of when, how and by which commands a take was made: checkpoints save time and nothing else."""


# ---- takes ----


def differences(take: Path, whole: Path) -> list[str]:
    """What two takes do not have in common, to the bit, but for times and the commands that made them."""
    found = [f"{name} is left" for name in sorted(names_of(take) - names_of(whole))]
    found += [f"{name} is missing" for name in sorted(names_of(whole) - names_of(take))]
    shared = [name for name in (VIDEO, CONTACT_SHEET, MEMORY_MAP) if (take / name).exists() and (whole / name).exists()]
    found += [name for name in shared if (take / name).read_bytes() != (whole / name).read_bytes()]
    found += [f"block {block}" for block, (a, b) in enumerate(zip(stored(take), stored(whole), strict=False)) if a != b]
    ours, theirs = facts_of(take), facts_of(whole)
    keys = sorted(ours.keys() | theirs.keys())
    return found + [f"{RECORD}: {key}" for key in keys if ours.get(key) != theirs.get(key)]


def names_of(take: Path) -> set[str]:
    """Of all files in a take but its lock and its checkpoints."""
    files = (str(path.relative_to(take)) for path in take.rglob("*") if path.is_file())
    return {name for name in files if name != f"{LATENTS}/{LOCK}" and not fnmatch(name, f"{CHECKPOINTS}/[0-9]*")}


def stored(take: Path) -> Iterator[tuple[Any, ...]]:
    """What is stored of each block but its times, so that it can be compared."""
    store = LatentStore(take / LATENTS)
    for block in range(store.blocks):
        record = store.record(block)
        arrays = [np.asarray(part).tobytes() for part in (record.latents, record.embeddings)]
        yield (*arrays, replace(record, latents=None, embeddings=None, seconds={}))  # type: ignore[arg-type]


def facts_of(take: Path) -> dict[str, Any]:
    """A take's record, without times and what it says of work that going on with a take does again or spares."""
    record = plain(read_record(take))
    facts = {key: value for key, value in record.items() if key not in OF_ITS_MAKING}
    facts["run"] = {**facts["run"], "load_seconds": 0}
    facts["memory"] = {**facts["memory"], "pages": None}
    return facts


def blocks_of(take: Path) -> int:
    """That are stored by now."""
    return len(block_numbers(take / LATENTS)) if (take / LATENTS).is_dir() else 0


# ---- what is killed ----


@dataclass(frozen=True)
class Case:
    """A command that is killed.

    Attributes:
        name: of the command.
        arguments: in a folder with the takes `before` in it.
        take: the take that it makes.
        seconds: that it is to last; one that does not was not begun. None: it was there before.
        before: takes that are there before.
        like: the case whose take it must equal; None generates it from what was asked.
        inside: where it is killed; see `tests.cli.killed`.
        typed: lines, each typed as soon as there are so many blocks.
    """

    name: str
    arguments: tuple[object, ...]
    take: str
    seconds: float | None
    before: str | None = None
    like: str | None = None
    inside: str = ANYWHERE
    typed: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True)
class Kill:
    """One kill: where it was, how the take was gone on with, what differed, and how long it took."""

    command: str
    moment: str
    gone_on: str
    differences: tuple[str, ...]
    seconds: float

    def __str__(self) -> str:
        told = "; ".join(self.differences) or "equal"
        return f"{self.command:8}  {self.moment:22}  {self.gone_on:17}  {self.seconds:5.1f} s  {told}"


class Campaign:
    """Kills commands, and compares what comes of them.

    Args:
        folder: an empty one; takes that differ stay there.
        backbone: what makes them.
        seed: of the moments.
    """

    def __init__(self, folder: Path, backbone: Path, seed: int) -> None:
        self._folder, self._random = folder, random.Random(seed)
        self._new = ("--backbone", backbone, "--seed", 5)
        generate = ("generate", PROMPT, *self._new, "--cue", 4, OTHER, "--seconds")
        live = ("direct", "live", PROMPT, *self._new, "--seconds", 9)
        extend = ("extend", "short", "--seconds", 2, "--prompt", OTHER)
        branch = ("branch", "half", "--at", 2, "-o", "other", "--prompt", THIRD)
        undone, branched = ((3, OTHER), (6, ":undo")), ((3, OTHER), (6, ":branch other"))
        self.cases = (
            Case("generate", (*generate, 6, "-o", "take"), "take", 6, like="generate"),
            Case(":undo", live, "live", None, inside="undone", typed=undone),
            Case("resume", ("resume", "half"), "half", 6, "half", "generate"),
            Case(":branch", live, "other", 9, inside="branched", typed=branched),
            Case("extend", extend, "short", 6, "short", "generate"),
            Case("direct", live, "live", 9, typed=((3, OTHER),)),
            Case("branch", branch, "other", 6, "half", "branch"),
        )
        self._work: dict[str, tuple[int, float]] = {}  # by case: file operations and seconds of the uninterrupted one
        self._whole: dict[object, Path] = {}  # uninterrupted takes, by what was asked for
        self._run("generate", PROMPT, *self._new, "--seconds", 4, "-o", "short")
        half, _ = start(folder, *generate, 6, "-o", "half")
        while blocks_of(folder / "half") < 4:
            time.sleep(0.002)
        half.kill()
        half.join()

    def kill(self, kills: int) -> Iterator[Kill]:
        """Kill so many times, each command in turn."""
        attempt = 0
        for case in cycle(self.cases):
            while True:
                attempt += 1
                done = self._attempt(case, self._folder / f"attempt{attempt}")
                if done is not None:
                    break
            yield done
            kills -= 1
            if not kills:
                return

    def _attempt(self, case: Case, folder: Path) -> Kill | None:
        """None where the command was done before it was killed."""
        operations, work_s = self._work_of(case)
        start_s = time.monotonic()
        if case.inside == ANYWHERE and self._random.random() < 0.5:
            number, delay_s = NEVER, self._random.uniform(0, work_s)
            moment = f"after {delay_s:.2f} of {work_s:.2f} s"
        else:
            number, delay_s = self._random.randrange(operations + 1), PATIENCE_S
            moment = f"operation {number} of {operations}"
        if not self._play(case, folder, number, delay_s):
            shutil.rmtree(folder)
            return None
        try:
            gone_on = self._go_on(case, folder)
            found = self._compare(case, folder)
        except (AssertionError, ValueError) as error:
            gone_on, found = "failed", [str(error)]
        if not found:
            shutil.rmtree(folder)
        return Kill(case.name, moment, gone_on, tuple(found), time.monotonic() - start_s)

    def _work_of(self, case: Case) -> tuple[int, float]:
        """The command is run once without a kill."""
        if case.name not in self._work:
            folder = self._folder / f"whole{len(self._work)}"
            start_s = time.monotonic()
            assert not self._play(case, folder, NEVER, PATIENCE_S)
            self._work[case.name] = int((folder / "operations").read_text()), time.monotonic() - start_s
            self._whole[case.name] = folder / case.take
        return self._work[case.name]

    def _play(self, case: Case, folder: Path, number: int, delay_s: float) -> bool:
        """Run the command, type, and kill it; returns whether it was killed."""
        folder.mkdir()
        if case.before:
            shutil.copytree(self._folder / case.before, folder / case.before)
        end_s = time.monotonic() + delay_s
        process, keyboard = start(folder, *case.arguments, number=number, inside=case.inside)
        typed = list(case.typed)
        while process.is_alive() and time.monotonic() < end_s:
            if typed and blocks_of(folder / "live") >= typed[0][0]:
                os.write(keyboard.fileno(), f"{typed.pop(0)[1]}\n".encode())
            if not typed:
                keyboard.close()
            time.sleep(0.002)
        process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL), (folder / "said").read_text()
        return process.exitcode == -signal.SIGKILL

    def _go_on(self, case: Case, folder: Path) -> str:
        """Resume what there is, or run the command again if it had not begun; returns which."""
        take = folder / case.take
        begun = (take / RECORD).is_file() and case.seconds in (None, read_record(take).request.seconds)
        for each in takes_in(folder):
            if (begun or each != take) and (each == take or each.name != case.before):
                self._run("resume", each.name, folder=folder)
        if not begun:
            self._run(*self._again(case, folder), folder=folder)
        return "resumed" if begun else "run again"

    def _again(self, case: Case, folder: Path) -> tuple[object, ...]:
        if case.name == ":branch":
            end = read_record(folder / "live").request.seconds
            return "branch", "live", "--at", end, "-o", "other", "--prompt", THIRD, "--seconds", case.seconds
        if case.typed:
            return "generate", PROMPT, *self._new, "--seconds", case.seconds, "-o", "live"
        return case.arguments

    def _compare(self, case: Case, folder: Path) -> list[str]:
        expected = {case.take, case.before or case.take, "live" if case.inside != ANYWHERE else case.take}
        found = [f"{path.name} is left" for path in folder.iterdir() if path.is_dir() and path.name not in expected]
        for take in takes_in(folder):
            if take.name == case.before != case.take:
                whole = self._folder / case.before
            elif case.like:
                whole = self._whole[case.like]
            else:
                whole = self._generated(take)
            found += [f"{take.name}: {what}" for what in differences(take, whole)]
        return found

    def _generated(self, take: Path) -> Path:
        """What a directed take asks for, made in one go."""
        request = read_record(take).request
        key = (request.seconds, request.cues)
        if key not in self._whole:
            whole = self._folder / f"generated{len(self._whole)}"
            self._run("generate", "--cues", take, *self._new, "-o", whole)
            self._whole[key] = whole
        return self._whole[key]

    def _run(self, *arguments: object, folder: Path | None = None) -> None:
        folder = folder or self._folder
        process, keyboard = start(folder, *arguments)
        keyboard.close()
        process.join(PATIENCE_S)
        assert process.exitcode == 0, f"{arguments[0]}: {(folder / 'said').read_text().splitlines()[-1]}"


def takes_in(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob(f"*/{RECORD}"))


def table(kills: Sequence[Kill]) -> str:
    """Kills by command."""
    lines = [f"{'command':10}{'kills':>6}{'resumed':>9}{'run again':>11}{'equal':>7}{'seconds':>9}"]
    by_command = {
        name: [kill for kill in kills if kill.command == name] for name in dict.fromkeys(k.command for k in kills)
    }
    for name, some in [*by_command.items(), ("all", list(kills))]:
        ways = [sum(kill.gone_on == way for kill in some) for way in ("resumed", "run again")]
        equal = sum(not kill.differences for kill in some)
        seconds = sum(kill.seconds for kill in some)
        lines.append(f"{name:10}{len(some):6}{ways[0]:9}{ways[1]:11}{equal:7}{seconds:9.0f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    settings = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    random_pipeline().save_pretrained(folder / "backbone")
    done = []
    for kill in Campaign(folder, folder / "backbone", settings.seed).kill(settings.kills):
        done.append(kill)
        print(f"{len(done):4}  {kill}", flush=True)
    print(table(done))
    if any(kill.differences for kill in done):
        sys.exit(f"what differs is in {folder}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
