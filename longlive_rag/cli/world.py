"""`longlive-rag world`: render, train and evaluate tiny-world."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from backbone.files import read_json
from longlive_rag.cli.errors import check_writable, refuse_bad_input
from longlive_rag.cli.making import load
from longlive_rag.cli.settings import (
    BACKBONE,
    FLAGS,
    THREADS,
    Duration,
    backbone_option,
    options,
    with_figures,
)
from longlive_rag.sessions.asking import seconds_of
from retrieval.files import write_whole

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from diffusers import AutoencoderKLWan
    from numpy.typing import NDArray

    from longlive_rag.pipeline import LongLiveRAGPipeline
    from longlive_rag.tinyworld.corpus import Corpus
    from longlive_rag.tinyworld.training import Hardware

RUN = click.option(
    "--run",
    default="runs/tiny-world",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder of the training run.",
)
BEGIN_WITH = click.option(
    "--begin-with",
    metavar="NAME|FOLDER",
    help="An earlier tiny-world, as a name or a pipeline folder, to start from.  [default: from scratch]",
)
BEGIN_WITH_WHOLE = click.option(
    "--begin-with",
    default="tiny-world",
    show_default=True,
    metavar="NAME|FOLDER",
    help="The model to start from, as a name or a pipeline folder.",
)
EARLIER = "earlier"
"""Subfolder of a run for latents encoded by an earlier model's VAE."""
STEPS = click.option("--steps", type=click.IntRange(min=1), help="Optimiser steps.  [default: the stage's own]")
OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace an existing file.")


on_hardware = options(
    click.option(
        "--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N; auto uses a GPU if there is one."
    ),
    click.option("--bfloat16", is_flag=True, help="Compute matrix products in bfloat16, for GPUs and CPUs with AMX."),
    THREADS,
)
"""The options that say where training runs."""


@click.group()
def world() -> None:
    """Render, train and evaluate tiny-world, a small model of a procedural world.

    \b
    Train from scratch to a pipeline folder; each stage can be resumed after a kill:
      longlive-rag world train-vae
      longlive-rag world train-backbone
      longlive-rag world refine-decoder
      longlive-rag world assemble -o my-tiny-world
    Train a retrieval encoder on the model's own takes, then assemble again:
      longlive-rag world prompts -o runs/tiny-world/prompts.txt
      longlive-rag train corpus runs/tiny-world/prompts.txt --backbone my-tiny-world --no-memory \\
        -o runs/tiny-world/takes
      longlive-rag train encoder --latents runs/tiny-world/takes -o runs/tiny-world/encoder \\
        --hidden-dims 32,64 --embedding-dim 256 --batch 16
      longlive-rag world assemble -o my-tiny-world
      longlive-rag world evaluate --backbone my-tiny-world
    """


@world.command()
@click.argument("prompt")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="An .mp4 file, or a .png strip.")
@click.option("--seconds", metavar="TIMECODE", default="5", show_default=True, help="Length of the film.")
@click.option("--seed", default=0, show_default=True, help="Seed for what the prompt leaves open.")
def render(prompt: str, output: Path, seconds: str, seed: int) -> None:
    """Draw a prompt by the world's own rules, without a model.

    \b
    Examples:
      longlive-rag world render "a red circle walks in a meadow" -o walk.mp4
      longlive-rag world render "a blue square jumps in the snow" -o jump.png --seconds 3 --seed 4
    """
    from longlive_rag.config import check_seconds
    from longlive_rag.tinyworld.grammar import parse
    from longlive_rag.tinyworld.world import FPS, script_for
    from longlive_rag.tinyworld.world import render as draw

    with refuse_bad_input(FLAGS):
        length = seconds_of(seconds, FPS)
        check_seconds(length, FPS)
        if output.suffix not in (".mp4", ".png"):
            raise ValueError(f"--output is {output}; its name must end in .mp4 or .png")
        check_writable(output)
        frames = draw(script_for(parse(prompt), round(length * FPS), seed))
        _write(frames, output)
    click.echo(str(output))


@world.command("train-vae")
@RUN
@BEGIN_WITH
@STEPS
@on_hardware
def train_vae_command(
    run: Path, begin_with: str | None, steps: int | None, device: str, bfloat16: bool, threads: int | None
) -> None:
    """Stage 1: train the video VAE on rendered clips.

    \b
    Examples:
      longlive-rag world train-vae
      longlive-rag world train-vae --begin-with tiny-world --device cuda --bfloat16
    """
    from longlive_rag.tinyworld.train_vae import train_vae

    hardware = _hardware(device, bfloat16, threads)
    with refuse_bad_input():
        earlier = None if begin_with is None else load(begin_with, device="cpu").vae
    train_vae(run / "vae", _say, steps=steps, hardware=hardware, earlier=earlier)


@world.command("train-backbone")
@RUN
@BEGIN_WITH
@STEPS
@on_hardware
def train_backbone_command(
    run: Path, begin_with: str | None, steps: int | None, device: str, bfloat16: bool, threads: int | None
) -> None:
    """Stage 2: train the text encoder and the transformer.

    They are trained together, by flow matching on blocks, on the latents of the VAE of stage 1.

    \b
    Examples:
      longlive-rag world train-backbone
      longlive-rag world train-backbone --begin-with tiny-world --device cuda --bfloat16
    """
    from longlive_rag.tinyworld.train_backbone import train_backbone

    hardware = _hardware(device, bfloat16, threads)
    with refuse_bad_input():
        earlier = None if begin_with is None else load(begin_with, device="cpu")
    vae = _trained_vae(run).to(hardware.device)
    train_backbone(*_corpora(vae, run), run / "backbone", _say, steps=steps, hardware=hardware, earlier=earlier)


@world.command("tune-long")
@RUN
@BEGIN_WITH_WHOLE
@STEPS
@on_hardware
def tune_long_command(
    run: Path, begin_with: str, steps: int | None, device: str, bfloat16: bool, threads: int | None
) -> None:
    """Stage 2b: tune the transformer on its own long films.

    The films last a minute and have a memory of first showings. The model makes them itself, guided by the rendering of
    their scripts, and remakes them as it trains. Its VAE and retrieval encoder stay as they are.

    \b
    Example:
      longlive-rag world tune-long --device cuda
    """
    from longlive_rag.tinyworld.corpus import make_corpus
    from longlive_rag.tinyworld.rolled import Films
    from longlive_rag.tinyworld.scripts import sample_film
    from longlive_rag.tinyworld.tune_long import FILMS, tune_long

    hardware = _hardware(device, bfloat16, threads)
    with refuse_bad_input():
        earlier = load(begin_with, device="cpu")
    folder, vae = run / EARLIER, earlier.vae.to(hardware.device)
    long, openings = _corpora(vae, folder)
    films = Films(make_corpus(vae, folder / "films.npy", FILMS, _say, sample_film))
    tune_long(films, long, openings, earlier, run / "long", _say, steps=steps, hardware=hardware)


@world.command("distill")
@RUN
@BEGIN_WITH_WHOLE
@STEPS
@on_hardware
def distill_command(
    run: Path, begin_with: str, steps: int | None, device: str, bfloat16: bool, threads: int | None
) -> None:
    """Stage 2c: distil the transformer.

    Four steps then draw one character instead of an average of several. The VAE, text encoder and retrieval encoder
    stay as they are.

    \b
    Example:
      longlive-rag world distill
    """
    from longlive_rag.tinyworld.distill import distill

    hardware = _hardware(device, bfloat16, threads)
    with refuse_bad_input():
        earlier = load(begin_with, device="cpu")
    corpora = _corpora(earlier.vae.to(hardware.device), run / EARLIER)
    distill(*corpora, earlier, run / "distilled", _say, steps=steps, hardware=hardware)


@world.command("refine-decoder")
@RUN
@BEGIN_WITH
@STEPS
@on_hardware
def refine_decoder_command(
    run: Path, begin_with: str | None, steps: int | None, device: str, bfloat16: bool, threads: int | None
) -> None:
    """Stage 1b: refine the VAE's decoder on long takes.

    The latents stay as they are.

    \b
    Examples:
      longlive-rag world refine-decoder
      longlive-rag world refine-decoder --begin-with tiny-world
    """
    from longlive_rag.tinyworld.refine_decoder import refine_decoder

    hardware = _hardware(device, bfloat16, threads)
    with refuse_bad_input():
        vae = _trained_vae(run) if begin_with is None else load(begin_with, device="cpu").vae
    corpus = _corpus(vae.to(hardware.device), run if begin_with is None else run / EARLIER, "long")
    refine_decoder(vae, corpus, run / "decoder", _say, steps=steps, hardware=hardware)


@world.command("prompts")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The text file to write.")
@click.option("--count", type=click.IntRange(min=1), default=96, show_default=True, help="Number of prompts.")
@click.option("--seed", default=0, show_default=True, help="Seed that draws them.")
@OVERWRITE
def prompts(output: Path, count: int, seed: int, overwrite: bool) -> None:
    """Write prompts for tiny-world, one per line.

    Training may use them: none is a held-out combination.

    \b
    Example:
      longlive-rag world prompts -o prompts.txt --count 96
    """
    from longlive_rag.tinyworld.scripts import sample_sentences

    with refuse_bad_input():
        check_writable(output, overwrite)
        output.write_text("".join(f"{sentence}\n" for sentence in sample_sentences(count, seed)), encoding="utf-8")
    click.echo(f"{output}: {count} prompts")


@world.command("subjects")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The JSON file to write.")
@click.option("--count", type=click.IntRange(min=1), default=32, show_default=True, help="Number of subjects.")
@click.option("--seed", default=0, show_default=True, help="Seed that draws them.")
@click.option("--start-images", is_flag=True, help="Also draw each subject as a start image.")
@OVERWRITE
def subjects(output: Path, count: int, seed: int, start_images: bool, overwrite: bool) -> None:
    """Write subjects, with the prompts of every scenario.

    'eval compare' and 'eval policies' read them with --prompts.

    \b
    Examples:
      longlive-rag world subjects -o subjects.json
      longlive-rag eval compare --arms native,memory --prompts subjects.json --scenario walk-away-and-return \\
        --seeds 2 --embedders tiny-world -o runs/return
    """
    from longlive_rag.tinyworld.scripts import draw_subjects, sample_subjects

    with refuse_bad_input():
        check_writable(output, overwrite)
        found = sample_subjects(count, seed)
        _write_json(output, draw_subjects(found, output.parent, seed) if start_images else found)
    click.echo(f"{output}: {count} subjects")


@world.command()
@RUN
@click.option(
    "--begin-with",
    metavar="NAME|FOLDER",
    help="An earlier tiny-world, as a name or a pipeline folder, for the parts that --run lacks.",
)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The pipeline folder to write.")
def assemble(run: Path, begin_with: str | None, output: Path) -> None:
    """Put the trained parts into one pipeline folder.

    Weights are stored in bfloat16.

    \b
    Examples:
      longlive-rag world assemble -o my-tiny-world
      longlive-rag world assemble --begin-with tiny-world -o my-tuned-world
    """
    from longlive_rag.tinyworld.assemble import assemble as put_together
    from longlive_rag.tinyworld.assemble import check_target, stages_of, trained_parts

    with refuse_bad_input():
        check_target(output)
        vae, model, encoder = trained_parts(run, load(begin_with, device="cpu") if begin_with else None)
        put_together(vae, model, encoder, output)
    for part, stage in stages_of(run).items():
        click.echo(f"{part:<30}{stage or begin_with or 'none'}")
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    click.echo(f"{output}: {size / 1e6:.2f} MB")


@world.command()
@backbone_option("Backbone whose VAE to test.")
@click.option("--clips", default=300, show_default=True, help="Number of random clips.")
@with_figures("Write all figures and confusions here.")
@THREADS
def oracle(backbone: str, clips: int, as_json: bool, output: Path | None, threads: int | None) -> None:
    """Measure how often the oracle is right.

    It reads clean, blurred, noisy and VAE-reconstructed frames.

    \b
    Example:
      longlive-rag world oracle -o docs/oracle.json
    """
    from tqdm import tqdm

    from longlive_rag.tinyworld.oracle import TRAITS
    from longlive_rag.tinyworld.validate import CONDITIONS, validate_oracle

    _set_threads(threads)
    with refuse_bad_input():
        check_writable(output)
        vae = load(backbone, "float32").vae
    with tqdm(total=clips, unit="clip") as bar:
        figures = validate_oracle(vae, clips, bar.update)
    if output:
        _write_json(output, figures)
    if as_json:
        click.echo(json.dumps(figures, indent=1))
        return
    click.echo(f"{'right, % of frames':20}" + "".join(f"{trait:>9}" for trait in ("count", *TRAITS)))
    for condition in CONDITIONS:
        at = figures[condition]
        shares = [at["presence_right"], *at["right"].values()]
        click.echo(f"{condition:20}" + "".join(f"{100 * share:9.1f}" for share in shares))


SECTIONS = ("vae", "prompts", "drift", "recall", "copying", "cues")


@world.command()
@click.argument("sections", nargs=-1, type=click.Choice(SECTIONS))
@BACKBONE
@click.option("--takes", type=click.IntRange(min=1), help="Takes per section.  [default: 64 for prompts, else 32]")
@click.option(
    "--memory/--no-memory", default=None, help="Use memory or not.  [default: for prompts and cues, not for drift]"
)
@click.option("--seconds", type=Duration(min=30), default=120, show_default=True, help="Length of drift takes.")
@click.option("--batch", default=16, show_default=True, help="Takes made side by side.")
@click.option("--strips", type=click.Path(path_type=Path), help="Folder for pictures of each section.")
@with_figures("Write all figures here; other sections in the file are kept.")
@THREADS
def evaluate(
    sections: tuple[str, ...], backbone: str, takes: int | None, memory: bool | None, seconds: float, batch: int,
    strips: Path | None, as_json: bool, output: Path | None, threads: int | None,
) -> None:  # fmt: skip
    """Measure a tiny-world backbone with the oracle.

    The prompts are such as it was never trained on.

    \b
    vae      PSNR on unseen clips
    prompts  64 takes of 5 s: is the character as prompted, visible, and doing what it should?
    drift    32 takes of 120 s without memory: is it still visible and moving, with its hidden traits?
    recall   the character walks away and returns, with forced memory frames: is memory used?
    copying  the same, but the world itself draws what memory holds: what does the backbone copy wrongly?
    cues     32 takes with a cue and the same without: does the cue show, does the character stay the same?

    All sections are measured by default (about 40 minutes on 2 CPU cores).

    \b
    Examples:
      longlive-rag world evaluate -o evaluation.json --strips pictures
      longlive-rag world evaluate vae prompts --takes 8
    """
    from longlive_rag.media.charts import check_charts
    from longlive_rag.tinyworld.curve_picture import draw_agreement

    _set_threads(threads)
    with refuse_bad_input():
        check_writable(output)
        if strips and "drift" in (sections or SECTIONS):
            check_charts("--strips of drift")
        figures = read_json(output) if output and output.is_file() else {}
        pipe = load(backbone, "float32")
    for section in sections or SECTIONS:
        kept: list[NDArray[np.uint8]] = []
        figures[section] = _measure(section, pipe, takes, memory, seconds, batch, kept)
        if strips and kept:
            strips.mkdir(parents=True, exist_ok=True)
            _write_strips(kept, strips / f"{section}.png")
            if section == "drift":
                draw_agreement(figures[section], strips / "traits.png")
        if output:
            _write_json(output, figures)
        for line in () if as_json else _lines(section, figures[section]):
            click.echo(line)
    if as_json:
        click.echo(json.dumps(figures, indent=1))


def _measure(
    section: str, pipe: LongLiveRAGPipeline, takes: int | None, memory: bool | None, seconds: float, batch: int,
    kept: list[NDArray[np.uint8]],
) -> dict[str, Any]:  # fmt: skip
    from tqdm import tqdm

    from longlive_rag.tinyworld import evaluate as measure
    from longlive_rag.tinyworld.copying import measure_copying
    from longlive_rag.tinyworld.cue_response import measure_cues

    if section == "vae":
        return measure.measure_vae(pipe)
    count = takes or (64 if section == "prompts" else 32)
    total = count * len(measure.RECALL_ARMS) if section == "recall" else count
    with tqdm(total=total, unit="take", desc=section) as bar:

        def keep(_: str, video: NDArray[np.uint8]) -> None:
            kept.append(video)

        if section == "prompts":
            return measure.measure_prompts(pipe, count, batch, bar.update, keep, memory is not False)
        if section == "drift":
            return measure.measure_drift(pipe, count, batch, bar.update, keep, memory is True, seconds)
        if section == "cues":
            return measure_cues(pipe, count, batch, bar.update, keep, memory is not False)
        if section == "copying":
            return measure_copying(pipe, count, batch, bar.update, keep)
        return measure.measure_recall(pipe, count, batch, bar.update, keep)


def _lines(section: str, figures: dict[str, Any]) -> Iterator[str]:
    """Summarise a section's figures in a few lines."""
    if section == "vae":
        yield f"VAE: {figures['psnr_db']:.2f} dB on unseen clips of {figures['frames']} frames"
    elif section == "prompts":
        yield (
            f"prompts: colour {_percent(figures['colour_right'])}, shape {_percent(figures['shape_right'])}, both "
            f"{_percent(figures['both_right'])} of frames; seen {_percent(figures['seen'])}; action right in "
            f"{_percent(figures['action_right'])} of takes"
        )
        drawn, world = (
            ", ".join(f"{name} {_percent(share)}" for name, share in figures[key].items())
            for key in ("variety", "world_variety")
        )
        yield f"variety of hidden traits (of the world's): {drawn} ({world})"
    elif section == "drift":
        for horizon, at in figures["at"].items():
            yield (
                f"drift at {horizon} s: seen {_percent(at['seen'])}, motion {_percent(at['motion_of_world'])} of the "
                f"world's, hidden traits kept {_percent(at['agreement'])}"
            )
    elif section == "cues":
        yield (
            f"cues: shown within {figures['within_seconds']:g} s in {_percent(figures['shown'])} (actions "
            f"{_percent(figures['shown_action'])}, places {_percent(figures['shown_place'])}); hidden traits kept "
            f"{_percent(figures['agreement'])}, without a cue {_percent(figures['agreement_without_cue'])}"
        )
    elif section == "copying":
        for part, at in figures["parts"].items():
            each = ", ".join(f"{trait} {_percent(share)}" for trait, share in at.items() if trait != "all")
            yield f"copying, {part}: all traits {_percent(at['all'])} ({each})"
    else:
        for arm, at in figures["arms"].items():
            yield f"recall, {arm}: all traits {_percent(at['all_agree'])}, each {_percent(at['agreement'])}"


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{share:.1%}"


def _write_json(path: Path, figures: Any) -> None:
    write_whole(path, f"{json.dumps(figures, indent=1)}\n".encode())


def _set_threads(threads: int | None) -> None:
    if threads:
        import torch

        torch.set_num_threads(threads)


def _hardware(device: str, bfloat16: bool, threads: int | None) -> Hardware:
    """Build the hardware of a training stage; also refuse early if charts for its final picture can't be drawn."""
    from longlive_rag.media.charts import check_charts
    from longlive_rag.tinyworld.training import Hardware
    from longlive_rag.weights.load import pick_device

    _set_threads(threads)
    with refuse_bad_input():
        check_charts("training.png", "train")
        return Hardware(pick_device(device), bfloat16)


def _say(line: str) -> None:
    click.echo(line, err=True)


def _trained_vae(run: Path) -> AutoencoderKLWan:
    from longlive_rag.tinyworld.assemble import trained_vae

    with refuse_bad_input():
        return trained_vae(run)


def _corpus(vae: AutoencoderKLWan, run: Path, name: str) -> Corpus:
    from longlive_rag.tinyworld.corpus import LONG, OPENINGS, make_corpus

    size = {"long": LONG, "openings": OPENINGS}[name]
    return make_corpus(vae, run / "corpus" / f"{name}.npy", size, _say)


def _corpora(vae: AutoencoderKLWan, run: Path) -> tuple[Corpus, Corpus]:
    """What the transformer is trained on: long scripts and openings."""
    return _corpus(vae, run, "long"), _corpus(vae, run, "openings")


def _write(frames: NDArray[np.uint8], output: Path) -> None:
    from longlive_rag.media.video import VideoWriter
    from longlive_rag.tinyworld.world import FPS

    if output.suffix == ".mp4":
        with VideoWriter(output, fps=FPS, width=frames.shape[2], height=frames.shape[1], upscale=4) as writer:
            writer.write(frames)
    else:
        _write_strips([frames], output)


def _write_strips(videos: list[NDArray[np.uint8]], output: Path) -> None:
    """Write one row per video, one picture per second, at twice the size."""
    import numpy as np
    from PIL import Image

    from longlive_rag.tinyworld.world import FPS

    rows = [np.concatenate(list(video[::FPS]), axis=1) for video in videos]
    sheet = Image.fromarray(np.concatenate(rows))
    sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.BICUBIC).save(output)
