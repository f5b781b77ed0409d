"""Damages files at random, lets commands read them, and says what fell: `python -m tests.hostile.fuzz --cases 2000`."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from random import Random

from longlive_rag.cli.main import COMMANDS
from tests.hostile.commands import Ended, fault, passed_policy, run_in_child, snapshot, touched
from tests.hostile.world import POLICY, TARGETS, build, damage


def one(template: Path, room: Path, name: str, random: Random) -> tuple[str, str, Ended]:
    """Damage a file of a copy of the world and run a command; what was done, what is wrong with it, how it ended."""
    shutil.rmtree(room, ignore_errors=True)
    shutil.copytree(template, room, symlinks=True)
    for inside in ("home", "tmp", "streams"):
        (room / inside).mkdir()
    os.environ |= {variable: f"{room}/home" for variable in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")}
    os.environ["TMPDIR"] = f"{room}/tmp"
    os.environ.pop("LONGLIVE_RAG_CONFIG", None)
    if name == "config file":
        os.environ["LONGLIVE_RAG_CONFIG"] = f"{room}/work/config.toml"
    work, around = room / "work", snapshot(room / "around")
    here = os.getcwd()
    os.chdir(work)
    try:
        command, what = damage(work, name, random)
    finally:
        os.chdir(here)
    ended = run_in_child(command, work, room / "streams")
    wrong = fault(ended)
    wrong = wrong or touched(around, room / "around")
    if not wrong and any((room / "tmp").iterdir()):
        wrong = f"left {next((room / 'tmp').iterdir()).name} in the folder of temporary files"
    if not wrong and ended.code == 0 and set(POLICY) <= set(command):
        unrecorded = passed_policy(work / "model")
        wrong = f"loaded {unrecorded} under commercial" if unrecorded else ""
    return f"{what}; {' '.join(command)}", wrong, ended


def main() -> int:
    """The exit code: 1 if there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="Number of the first case.")
    parser.add_argument("--targets", nargs="*", default=list(TARGETS), choices=list(TARGETS), metavar="NAME")
    parser.add_argument("--show", action="store_true", help="Print what commands said.")
    asked = parser.parse_args()
    import_everything()
    begin, faults, codes = time.monotonic(), 0, dict.fromkeys((0, 1, 2, 130), 0)
    with tempfile.TemporaryDirectory(prefix="longlive-rag-fuzz-") as folder:
        os.environ["HF_HUB_OFFLINE"] = "1"
        template = build(Path(folder) / "template")
        for number in range(asked.first, asked.first + asked.cases):
            random = Random(f"{asked.seed}/{number}")
            name = asked.targets[number % len(asked.targets)]
            what, wrong, ended = one(template, Path(folder) / "room", name, random)
            codes[ended.code] = codes.get(ended.code, 0) + 1
            if wrong:
                faults += 1
                print(f"case {number}, {name}, {what}\n  {wrong}", flush=True)
            if asked.show:
                print(
                    f"case {number}, {what}: {ended.code} in {ended.seconds:.1f} s\n{ended.out}{ended.err}", flush=True
                )
    minutes = (time.monotonic() - begin) / 60
    print(f"{asked.cases} cases, {faults} faults, exit codes {codes}, {minutes:.1f} minutes")
    return int(faults > 0)


def import_everything() -> None:
    """So that children, which are forked, have it."""
    import importlib

    for name in (*(f"longlive_rag.cli.{command}" for command in COMMANDS), "eval.report", "longlive_rag.weights.load"):
        importlib.import_module(name)


if __name__ == "__main__":
    sys.exit(main())
