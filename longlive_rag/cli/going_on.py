"""What `resume`, `extend` and `branch` share: a take on disk is opened, checked, and gone on with."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from longlive_rag.cli.errors import refuse_bad_input
from longlive_rag.cli.generate import make, open_backbone, provenance_of, report, stored_bytes
from longlive_rag.cli.settings import FLAGS, POLICY, build_checkpoint, with_checkpoints
from longlive_rag.config import CheckpointConfig, CheckpointMode, TakeRequest
from longlive_rag.presets.geometry import read_geometry
from longlive_rag.presets.preset import Preset
from longlive_rag.rights.policy import LicensePolicy, pick_policy
from longlive_rag.takes.branch import backbone_of, check_latents, checkpoint_of, request_of, timeline_of
from longlive_rag.timeline import Timeline
from retrieval.files import in_words

if TYPE_CHECKING:
    from longlive_rag.rights.provenance import Provenance
    from longlive_rag.takes.writer import TakeEvent, TakeRun

TAKE = click.argument("folder", metavar="TAKE", type=click.Path(path_type=Path))


@dataclass(frozen=True)
class Options:
    """What the user may say about going on.

    Attributes:
        backbone: where the take's backbone is; None looks for it under its name.
        device: where it runs.
        prompt_embeds: prompts embedded ahead.
        checkpoint, checkpoint_gib: other than the take's.
        license_policy: other than what is in force.
        as_json: whether the result is printed as JSON.
    """

    backbone: str | None
    device: str
    prompt_embeds: Path | None
    checkpoint: CheckpointMode | None
    checkpoint_gib: float | None
    license_policy: str | None
    as_json: bool


@dataclass(frozen=True)
class OpenTake:
    """A take on disk, checked, with its backbone at hand but not loaded.

    Attributes:
        folder: of the take.
        record: its record.
        request, timeline: what it was asked for.
        preset: of its backbone.
        blocks: that are stored, each whole.
    """

    folder: Path
    record: dict[str, Any]
    request: TakeRequest
    timeline: Timeline
    preset: Preset
    blocks: int


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `Options`, in their order."""
    options = (
        click.option("--backbone", metavar="NAME|FOLDER", help="Where the take's backbone is, if not where it was."),
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."),
        click.option(
            "--prompt-embeds",
            type=click.Path(path_type=Path),
            help="Prompts embedded by 'models embed-prompts'; the text encoder is not loaded.",
        ),
        with_checkpoints,
        POLICY,
        click.option("--json", "as_json", is_flag=True, help="Print the result as JSON (progress stays on stderr)."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def open_take(folder: Path, backbone: str | None) -> OpenTake:
    """Read and check a take.

    Raises:
        ValueError: if it is no take, is damaged, or its backbone is not here.
    """
    from longlive_rag.takes.folder import read_record

    record = read_record(folder)
    preset = backbone_of(record, folder, backbone)
    request = request_of(record)
    return OpenTake(folder, record, request, timeline_of(request, preset), preset, blocks_of(folder))


def blocks_of(folder: Path) -> int:
    """Stored blocks, each read and checked.

    Raises:
        ValueError: if one is damaged; says how to mend it.
    """
    from retrieval.store import DamagedError

    try:
        store = check_latents(folder)
    except DamagedError as damage:
        raise ValueError(f"{damage}; `longlive-rag take repair {folder}` keeps the blocks before it") from damage
    return store.blocks if store else 0


def go_on(
    take: OpenTake,
    folder: Path,
    request: TakeRequest,
    event: TakeEvent,
    options: Options,
    prepare: Callable[[], None] | None = None,
) -> None:
    """Make what `request` asks for beyond what there is, in `folder`.

    Args:
        take: the take that is gone on with, or branched.
        folder: where the new part is written.
        event: for the take's history.
        prepare: fills the folder, once it is claimed and the backbone is loaded.
    """
    from longlive_rag.takes.folder import TakeClaim
    from longlive_rag.takes.writer import TakeWriter

    with ExitStack() as held:
        with refuse_bad_input(FLAGS):
            checkpoints = build_checkpoint(checkpoint_of(take.record), options.checkpoint, options.checkpoint_gib)
            timeline = timeline_of(request, take.preset)
            provenance = provenance_like(take, options.license_policy)
            check_room(folder, request, timeline, take, checkpoints)
            claim = held.enter_context(TakeClaim(folder, resume=prepare is None))
        run = take.record["run"]
        pipe, new_run = open_backbone(
            take.preset, request, options.device, run["dtype"], run["codec"], provenance, options.prompt_embeds
        )
        for difference in differences(take.record, new_run):
            click.echo(f"Note: {difference}; from here on the last bits may differ.", err=True)
        with refuse_bad_input(FLAGS):
            if prepare is not None:
                prepare()
                claim.store.adopt()
            writer = TakeWriter(folder, request, timeline, new_run, checkpoint=checkpoints, claim=claim, event=event)
            writer.kept_remembered()
        record = make(pipe, request, writer)
    report(record, folder, options.as_json)


def provenance_like(take: OpenTake, license_policy: str | None) -> Provenance:
    """The rights of the backbone's files under the stricter of two policies, the take's and the one in force, and the
    labels that the take has.

    Raises:
        LicenseError: if the policy does not allow one of the files.
    """
    rights = take.record["rights"]
    policy = max(pick_policy(license_policy), rights["license_policy"], key=get_args(LicensePolicy).index)
    deliverable = rights["label"] == "deliverable"
    return provenance_of(take.preset, policy, deliverable, rights["phase"], rights["visible_label"] is not None)


def check_room(
    folder: Path, request: TakeRequest, timeline: Timeline, take: OpenTake, checkpoints: CheckpointConfig
) -> None:
    """Refuse to begin where the disk has no room for what is to come.

    Raises:
        ValueError: saying how much is needed and how much there is.
    """
    from longlive_rag.takes.folder import estimate_bytes

    geometry = read_geometry(take.preset, request.output, request.memory.encoder)
    stored = stored_bytes(request, timeline, geometry, take.record["run"]["dtype"], checkpoints)
    there = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
    needed = max(0, estimate_bytes(request) + stored - there)
    where = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(where).free
    if free < needed:
        raise ValueError(f"no space left for {folder}: it needs about {in_words(needed)}, {in_words(free)} are free")


def differences(record: dict[str, Any], run: TakeRun) -> list[str]:
    """What is not as it was when the take was begun."""
    from longlive_rag.version import versions

    before = record["run"]
    pairs = [("device", before["device"], run.device), ("threads", before["threads"], run.threads)]
    now = versions()
    pairs += [(name, record["versions"].get(name), now.get(name)) for name in ("torch", "diffusers", "faiss-cpu")]
    return [f"the take was begun with {name} {old}, this is {new}" for name, old, new in pairs if old != new]
