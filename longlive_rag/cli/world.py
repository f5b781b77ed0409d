"""`longlive-rag world`: the procedural world of tiny-world, its training and its figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from longlive_rag.cli.errors import refuse_bad_input

if TYPE_CHECKING:
    import numpy as np
    from diffusers import AutoencoderKLWan
    from numpy.typing import NDArray

RUN = click.option(
    "--run",
    default="runs/tiny-world",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder of the training run.",
)
THREADS = click.option("--threads", type=click.IntRange(min=1), help="CPU threads; default is one a core.")


@click.group()
def world() -> None:
    """tiny-world: a procedural world, the model trained on it, and what that model can.

    \b
    From nothing to a pipeline folder, each stage resumable after a kill:
      longlive-rag world train-vae
      longlive-rag world train-backbone
      longlive-rag world refine-decoder
      longlive-rag world train-encoder
      longlive-rag world assemble -o my-tiny-world
      longlive-rag world evaluate --backbone my-tiny-world
    """


@world.command()
@click.argument("prompt")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="An .mp4 file, or a .png strip.")
@click.option("--seconds", default=5.0, show_default=True)
@click.option("--seed", default=0, show_default=True, help="Draws what the prompt does not say.")
def render(prompt: str, output: Path, seconds: float, seed: int) -> None:
    """Draw a prompt by the world's own rules, without any model.

    \b
    Examples:
      longlive-rag world render "a red circle walks in a meadow" -o walk.mp4
      longlive-rag world render "a blue square jumps in the snow" -o jump.png --seconds 3 --seed 4
    """
    from longlive_rag.config import check_seconds
    from longlive_rag.tinyworld.grammar import parse
    from longlive_rag.tinyworld.world import FPS, script_for
    from longlive_rag.tinyworld.world import render as draw

    with refuse_bad_input():
        check_seconds(seconds, FPS)
        if output.suffix not in (".mp4", ".png"):
            raise ValueError(f"the output is {output}; its name must end in .mp4 or .png")
        frames = draw(script_for(parse(prompt), round(seconds * FPS), seed))
    _write(frames, output)
    click.echo(str(output))


@world.command("train-vae")
@RUN
@THREADS
def train_vae_command(run: Path, threads: int | None) -> None:
    """Stage 1: the video VAE on rendered clips."""
    from longlive_rag.tinyworld.train_vae import train_vae

    _set_threads(threads)
    train_vae(run / "vae", _say)


@world.command("train-backbone")
@RUN
@THREADS
def train_backbone_command(run: Path, threads: int | None) -> None:
    """Stage 2: text encoder and causal transformer, by flow matching on blocks."""
    from longlive_rag.tinyworld.train_backbone import train_backbone

    _set_threads(threads)
    train_backbone(_trained_vae(run), run / "backbone", _say)


@world.command("refine-decoder")
@RUN
@THREADS
def refine_decoder_command(run: Path, threads: int | None) -> None:
    """Stage 1b: the VAE's decoder alone, on long takes; the latents stay as they are."""
    from longlive_rag.tinyworld.refine_decoder import refine_decoder
    from longlive_rag.tinyworld.train_backbone import make_corpus

    _set_threads(threads)
    vae = _trained_vae(run)
    refine_decoder(vae, make_corpus(vae, run / "backbone", _say), run / "decoder", _say)


@world.command("train-encoder")
@RUN
@THREADS
def train_encoder_command(run: Path, threads: int | None) -> None:
    """Stage 3: the retrieval encoder, on the latents of stage 2."""
    from longlive_rag.tinyworld.train_backbone import make_corpus
    from longlive_rag.tinyworld.train_encoder import train_encoder

    _set_threads(threads)
    train_encoder(make_corpus(_trained_vae(run), run / "backbone", _say), run / "encoder", _say)


@world.command()
@RUN
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The pipeline folder to write.")
def assemble(run: Path, output: Path) -> None:
    """Put the trained parts into one pipeline folder, weights in bfloat16."""
    from longlive_rag.tinyworld.assemble import assemble as put_together
    from longlive_rag.tinyworld.assemble import trained_parts

    with refuse_bad_input():
        vae, model, encoder = trained_parts(run)
    put_together(vae, model, encoder, output)
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    click.echo(f"{output}: {size / 1e6:.2f} MB")


@world.command()
@click.option("--backbone", default="tiny-world", show_default=True, help="Name or pipeline folder.")
@click.option("--takes", default=32, show_default=True, help="Takes, each of another unseen prompt.")
@click.option("--seconds", default=30.0, show_default=True, help="Length of each take.")
@click.option("--memory/--no-memory", default=True, show_default=True)
@click.option("--batch", default=8, show_default=True, help="Takes generated side by side.")
@click.option("--strips", type=click.Path(path_type=Path), help="Also write a picture of every take here (.png).")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write all figures here.")
@THREADS
def evaluate(
    backbone: str,
    takes: int,
    seconds: float,
    memory: bool,
    batch: int,
    strips: Path | None,
    json_path: Path | None,
    threads: int | None,
) -> None:
    """Measure a tiny-world backbone on prompts that it never trained on.

    Reports the VAE's PSNR on unseen clips; over the first 5 s of each take, how often the character has the prompted
    colour and whether it moves; and whether a character is still there at the end.

    \b
    Examples:
      longlive-rag world evaluate --json evaluation.json --strips takes.png
      longlive-rag world evaluate --takes 8 --seconds 5
    """
    from tqdm import tqdm

    from longlive_rag.load import load_pipeline
    from longlive_rag.tinyworld.evaluate import evaluate as measure

    _set_threads(threads)
    kept: list[NDArray[np.uint8]] = []
    with refuse_bad_input():
        pipe = load_pipeline(backbone)
        with tqdm(total=takes, unit="take") as bar:
            figures = measure(
                pipe, takes, seconds, memory, batch, lambda done, _: bar.update(done - bar.n),
                lambda prompt, frames: kept.append(frames),
            )  # fmt: skip
    if strips:
        _write_strips(kept, strips)
    if json_path:
        json_path.write_text(json.dumps(figures.as_dict(), indent=2) + "\n", encoding="utf-8")
    click.echo(f"VAE PSNR on unseen clips: {figures.vae_psnr:.2f} dB")
    click.echo(
        f"first 5 s, colour as prompted: {figures.colour_right:.1%} of frames (character seen in {figures.seen:.1%})"
    )
    click.echo(f"moving at least half as much as the world: {figures.moving:.1%} of takes")
    click.echo(f"a character still there at {seconds:g} s: {figures.at_end:.1%} of takes")


def _set_threads(threads: int | None) -> None:
    if threads:
        import torch

        torch.set_num_threads(threads)


def _say(line: str) -> None:
    click.echo(line, err=True)


def _trained_vae(run: Path) -> AutoencoderKLWan:
    from longlive_rag.tinyworld.assemble import trained_vae

    with refuse_bad_input():
        return trained_vae(run)


def _write(frames: NDArray[np.uint8], output: Path) -> None:
    from longlive_rag.tinyworld.world import FPS
    from longlive_rag.video import VideoWriter

    if output.suffix == ".mp4":
        with VideoWriter(output, fps=FPS, width=frames.shape[2], height=frames.shape[1], upscale=4) as writer:
            writer.write(frames)
    else:
        _write_strips([frames], output)


def _write_strips(videos: list[NDArray[np.uint8]], output: Path) -> None:
    """A row a video, one picture a second, three times as large."""
    import numpy as np
    from PIL import Image

    from longlive_rag.tinyworld.world import FPS

    rows = [np.concatenate(list(video[::FPS]), axis=1) for video in videos]
    sheet = Image.fromarray(np.concatenate(rows))
    sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.BICUBIC).save(output)
