"""`longlive-rag train`: train a retrieval encoder on a backbone's takes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from backbone.errors import FieldError, Name
from longlive_rag.cli.comparing import ENGINE, ray_options
from longlive_rag.cli.errors import Failed, Stopped, refuse_bad_input
from longlive_rag.cli.making import note
from longlive_rag.cli.settings import BACKBONE, DEVICE, DTYPE, FLAGS, Steps
from longlive_rag.generation.cues import Schedule
from longlive_rag.presets.preset import load_preset
from longlive_rag.sessions.asking import build_request, seconds_of
from longlive_rag.sessions.opening import DType

if TYPE_CHECKING:
    from longlive_rag.presets.preset import Preset
    from longlive_rag.sessions.corpus import Wanted
    from longlive_rag.sessions.opening import Opening
    from longlive_rag.sessions.ray_workers import Cluster

FOLDER = click.Path(path_type=Path)
HELD_BYTES = 4 * 2**30
"""Latents up to this size are kept in memory while training; above it, each chunk is read from its take."""


@click.group()
def train() -> None:
    """Train the retrieval encoder, whose embeddings memory is searched by.

    \b
    Train an encoder from a list of prompts:
      longlive-rag train corpus prompts.txt -o takes/corpus --seconds 30
      longlive-rag train encoder --latents takes/corpus -o runs/encoder
      longlive-rag models convert my-backbone my-backbone-2 --encoder runs/encoder/encoder.pt
    """


@train.command()
@click.argument("prompts", type=FOLDER)
@click.option("-o", "--output", required=True, type=FOLDER, help="Folder for the takes, one subfolder each.")
@click.option("--seconds", metavar="TIMECODE", default="30", show_default=True, help="Length of each take.")
@click.option("--seeds", type=click.IntRange(min=1), default=1, show_default=True, help="Takes per prompt.")
@click.option("--memory/--no-memory", default=None, help="Use memory or not.  [default: as in the backbone's preset]")
@BACKBONE
@click.option("--batch", type=click.IntRange(min=1), default=8, show_default=True, help="Takes made side by side.")
@DTYPE
@DEVICE
@ENGINE
@click.option("--workers", type=int, default=1, show_default=True, help="Processes that make takes, on Ray.")
@ray_options
def corpus(
    prompts: Path, output: Path, seconds: str, seeds: int, memory: bool | None, backbone: str, batch: int,
    dtype: DType, device: str, engine: str, workers: int, address: str | None, gpus_per_worker: float | None,
) -> None:  # fmt: skip
    """Make a take of each prompt in a file.

    PROMPTS is a text file with one prompt per line. Finished takes are not made again.

    \b
    Examples:
      longlive-rag train corpus prompts.txt -o takes/corpus
      longlive-rag train corpus prompts.txt -o takes/corpus --seeds 4 --seconds 20 --backbone longlive --device cuda
      longlive-rag train corpus prompts.txt -o takes/corpus --engine ray --workers 8 --backbone longlive
    """
    from longlive_rag.presets.prompts import read_prompts
    from longlive_rag.sessions.corpus import missing_takes
    from longlive_rag.sessions.opening import Opening

    with refuse_bad_input(FLAGS):
        preset = load_preset(backbone)
        length = seconds_of(seconds, preset.output.fps)
        told = [(prompt, seed) for prompt in read_prompts(prompts) for seed in range(seeds)]
        requests = [
            build_request(preset, Schedule(prompt, (), length), seed, {"memory_enabled": memory})
            for prompt, seed in told
        ]
        left = missing_takes(requests, output, preset)
        cluster = _cluster_of(engine, workers, address, gpus_per_worker, device)
    if left:
        _make_corpus(preset, Opening(device, dtype), left, batch, cluster, output)
    click.echo(f"{output}: {len(requests)} takes of {length:g} s, {len(requests) - len(left)} of which already existed")


def _make_corpus(
    preset: Preset, opening: Opening, left: Wanted, batch: int, cluster: Cluster | None, output: Path
) -> None:
    """Make what is left of a corpus, in this process or on a Ray cluster, with a progress bar."""
    from tqdm import tqdm

    from longlive_rag.sessions.corpus import make_corpus, make_corpus_on_ray
    from longlive_rag.sessions.making import TakeFailed, TakeStopped, reason_of
    from longlive_rag.sessions.opening import Labels, load_backbone, open_backbone, provenance_of

    with refuse_bad_input(FLAGS):
        provenance = provenance_of(preset, Labels())
        if cluster is None:
            pipe, run = open_backbone(preset, left[0][0], opening, provenance, note)
        else:  # this process only checks the requests
            pipe, run = load_backbone(preset, replace(opening, device="cpu"), provenance)
        for request, _ in left:
            pipe.check(request)
    try:
        with tqdm(total=sum(request.pixel_frames for request, _ in left), unit=" frames", smoothing=0) as bar:
            if cluster is None:
                make_corpus(pipe, run, left, batch, bar.update)
            else:
                del pipe
                make_corpus_on_ray(preset, opening, left, batch, cluster, bar.update)
    except FieldError:  # the cluster lacks what was asked for
        with refuse_bad_input(FLAGS):
            raise
    except (KeyboardInterrupt, TakeStopped) as error:
        raise Stopped(f"Stopped; finished takes are kept in {output}; to resume, run the same command") from error
    except (OSError, TakeFailed) as error:
        raise Failed(
            f"{reason_of(error)}; finished takes are kept in {output}; to resume, run the same command"
        ) from error


def _cluster_of(
    engine: str, workers: int, address: str | None, gpus_per_worker: float | None, device: str
) -> Cluster | None:
    """Build the description of a Ray cluster; None makes takes in this process.

    Raises:
        ValueError: if the options contradict one another.
    """
    from longlive_rag.sessions.ray_workers import Cluster, check_device, check_installed

    if engine == "ray":
        check_installed()
        check_device(device)
        return Cluster(workers, None, address, gpus_per_worker)
    given = {"workers": workers if workers != 1 else None, "address": address, "gpus_per_worker": gpus_per_worker}
    for name, value in given.items():
        if value is not None:
            raise FieldError(name, value, claim=(Name(name), " is for a Ray cluster; add --engine ray"))
    return None


@train.command()
@click.option("--latents", "takes", type=FOLDER, multiple=True, required=True, metavar="TAKE",
              help="A take or a folder of takes. Repeat for more.")  # fmt: skip
@click.option("-o", "--output", required=True, type=FOLDER, help="Folder for the run.")
@click.option("--steps", type=click.IntRange(min=1), default=3000, show_default=True, help="Optimiser steps.")
@click.option("--batch", type=click.IntRange(min=1), default=128, show_default=True, help="Chunks per step.")
@click.option("--chunk-frames", type=click.IntRange(min=4), default=8, show_default=True,
              help="Consecutive latent frames per chunk.")  # fmt: skip
@click.option("--learning-rate", type=click.FloatRange(min=0, min_open=True), default=3e-4, show_default=True,
              help="Learning rate of AdamW.")  # fmt: skip
@click.option("--delta-weight", type=click.FloatRange(min=0), default=1.0, show_default=True,
              help="Weight of the window temporal delta loss.")  # fmt: skip
@click.option("--smoothing-weight", type=click.FloatRange(min=0), default=1.0, show_default=True,
              help="Weight of the trajectory smoothing loss.")  # fmt: skip
@click.option("--grow-in", type=click.FloatRange(0, 1), default=0.5, show_default=True,
              help="Share of the steps over which both weights ramp up from 0.")  # fmt: skip
@click.option("--hidden-dims", type=Steps(), default="64,128,256", show_default=True, help="Widths of the encoder.")
@click.option("--embedding-dim", type=click.IntRange(min=1), default=1024, show_default=True,
              help="Numbers per embedding.")  # fmt: skip
@click.option("--validation-share", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.1,
              show_default=True, help="Share of the frames held out for validation.")  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of weights and batches.")
@DEVICE
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def encoder(takes: tuple[Path, ...], output: Path, device: str, as_json: bool, **settings: Any) -> None:
    """Train the retrieval autoencoder on takes. Run the same command again to resume a run that was stopped.

    The folder will hold encoder.pt (the best on the held-out frames), encoder/ (the same as a diffusers folder),
    log.jsonl and training.png (the terms of the loss).

    \b
    Examples:
      longlive-rag train encoder --latents takes/corpus -o runs/encoder
      longlive-rag train encoder --latents takes/a --latents takes/b -o runs/encoder --steps 500 --batch 16
    """
    from tqdm import tqdm

    from longlive_rag.media.charts import check_charts
    from longlive_rag.media.training_picture import draw_training
    from longlive_rag.weights.load import pick_device
    from retrieval.training import Chunks, EncoderTraining, read_log, train_encoder

    with refuse_bad_input(FLAGS):
        check_charts("training.png", "train")
        asked = EncoderTraining(**settings)
        frames = _frames_of(takes)
        Chunks(frames, asked)
        where = pick_device(device)
        output.mkdir(parents=True, exist_ok=True)
    try:
        with tqdm(total=asked.steps, unit=" steps") as bar, refuse_bad_input(FLAGS):

            def progress(step: int, figures: dict[str, float]) -> None:
                bar.set_postfix({name: f"{value:.3f}" for name, value in figures.items() if "_" not in name})
                bar.update(step - bar.n)

            done = train_encoder(frames, output, asked, progress, where)
    except KeyboardInterrupt as error:
        raise Stopped(f"Stopped; to resume from the last checkpoint in {output}, run the same command") from error
    draw_training(list(read_log(output)), output / "training.png")
    if as_json:
        click.echo(json.dumps(done, indent=2))
        return
    terms = ", ".join(f"{name} {value:.4f}" for name, value in done["validation"].items())
    click.echo(f"{output / 'encoder.pt'}: best at step {done['best_step']} of {asked.steps} ({terms})")


def _frames_of(takes: tuple[Path, ...]) -> list[Any]:
    """Collect the latents of takes and folders of takes, in memory if they fit.

    Raises:
        ValueError: if one holds none, or they were made by different backbones.
    """
    from longlive_rag.takes.folder import LATENTS, RECORD
    from longlive_rag.takes.record import read_record
    from retrieval.store import LatentStore
    from retrieval.training import Held

    folders = []
    for path in takes:
        inside = [path] if (path / RECORD).is_file() else sorted(file.parent for file in path.glob(f"*/{RECORD}"))
        if not inside:
            raise ValueError(f"{path} is neither a take nor a folder of takes")
        folders += inside
    made_by = {read_record(folder).run.backbone_id for folder in folders}
    if len(made_by) > 1:
        raise ValueError(f"the takes were made by {len(made_by)} different backbones; train on takes of one")
    stores = [LatentStore(folder / LATENTS) for folder in folders]
    if sum(store.bytes for store in stores) > HELD_BYTES:
        return stores
    return [Held(store.latents(range(store.frames))) for store in stores]
