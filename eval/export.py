"""Export of takes in the layout of VBench and VBench-Long: a flat folder per arm, files named by prompt and number."""

from __future__ import annotations

import shutil
from pathlib import Path

from eval.plan import Plan, read_plan
from eval.runs import is_finished, take_folder
from longlive_rag.media.video import copy_frames, read_tags
from longlive_rag.takes.folder import VIDEO
from longlive_rag.takes.record import read_record

NAME_BYTES = 200  # file systems allow 255, including number and suffix


def export_for_vbench(run: Path, target: Path, horizon_s: float | None = None) -> int:
    """Copy a run's videos to `target`/ARM/PROMPT-SEED.mp4, all or none, and return how many.

    Names have no underscores, because VBench-Long silently drops its long-range branch if there is one.

    Args:
        horizon_s: seconds to copy of each video, without re-encoding; None copies whole files.

    Raises:
        ValueError: if takes are missing, two would have the same name, or the target exists.
    """
    plan = read_plan(run)
    missing = [cell.name for cell in plan.cells if not is_finished(run, cell)]
    if missing:
        raise ValueError(f"{len(missing)} of {len(plan.cells)} takes are not finished, such as {missing[0]}")
    lost = [cell.name for cell in plan.cells if not (take_folder(run, cell) / VIDEO).is_file()]
    if lost:
        raise ValueError(f"the videos of {len(lost)} takes are missing, such as {lost[0]}")
    if target.exists():
        raise ValueError(f"{target} already exists; name a new folder")
    names = _names(plan)
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    for arm in plan.arms:
        (part / arm.name).mkdir(parents=True)
    for cell in plan.cells:
        name = f"{names[cell.story.id]}-{cell.seed}.mp4"
        _copy(take_folder(run, cell), part / cell.arm.name / name, plan.seconds if horizon_s is None else horizon_s)
    part.replace(target)
    return len(plan.cells)


def _copy(take: Path, target: Path, seconds: float) -> None:
    made = read_record(take).video
    frames = round(seconds * made.fps)
    if frames >= made.frames:
        shutil.copyfile(take / VIDEO, target)
    else:
        copy_frames(take / VIDEO, target, range(frames), read_tags(take / VIDEO))


def vbench_name(prompt: str, suffix: str = "") -> str:
    """Turn a prompt into a file stem without underscores or separators, of at most 200 bytes including its suffix."""
    kept = "".join(" " if letter in '_/\\:*?"<>|' or not letter.isprintable() else letter for letter in prompt)
    room = NAME_BYTES - len(suffix.encode())
    return " ".join(kept.split()).encode()[:room].decode(errors="ignore").strip() + suffix


def _names(plan: Plan) -> dict[str, str]:
    names = {story.id: vbench_name(story.prompt) for story in plan.stories}
    if len(set(names.values())) < len(names):  # scenarios may share first prompts, and long prompts their beginnings
        names = {story.id: vbench_name(story.prompt, f" {vbench_name(story.id)}") for story in plan.stories}
    if len(set(names.values())) < len(names):
        raise ValueError("two prompts would have the same file name")
    return names
