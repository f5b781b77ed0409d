"""Assemble the trained parts to a pipeline folder."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file, save_file

from backbone.vae import fold_temporal_convs
from longlive_rag.pipeline import LongLiveRAGPipeline
from longlive_rag.presets.preset import INDEX
from longlive_rag.rights.records import write_record
from longlive_rag.tinyworld.distill import student_of
from longlive_rag.tinyworld.text import share_capitals
from longlive_rag.tinyworld.train_backbone import CONTEXT, SAMPLER, TextToVideo
from longlive_rag.tinyworld.world import FPS, SIZE_PX
from retrieval.encoder import LatentAutoencoder
from retrieval.training import ENCODER

UPSCALE = 6
PROMPT_WEIGHT = 0.5  # in the key that memory is searched by; `longlive-rag eval retrieval` measures its benefit
NEW_VIEW = 0.95  # chosen as described in docs/memory.md
ESTABLISH_S = 8.0  # how much memory keeps of each new view; docs/drift.md reports its benefit
LIKE_WORDS = 0.75  # docs/decisions/0008-sharper-where-nothing-changed.md says why, and why the two below
POLICY = "varied"
RUN_WITH = replace(
    CONTEXT, memory_gain=1.8, first_gain=0.8, gain_above=0.96, fill_from_window=True, recency_guard_frames=0
)
KEPT = ("README.md",)


def trained_vae(run: Path) -> AutoencoderKLWan:
    """Load the result of stage 1.

    Raises:
        ValueError: if the stage has not finished.
    """
    folder = run / "vae" / "vae"
    if not folder.is_dir():
        raise ValueError(f"{folder} does not exist; run `longlive-rag world train-vae --run {run}` to its end first")
    return fold_temporal_convs(AutoencoderKLWan.from_pretrained(folder))


def stages_of(run: Path) -> dict[str, Path | None]:
    """Return the last stage of a training run that trained each part: its file or folder; None if there is none."""
    stages = {
        "transformer and text encoder": [run / stage / "checkpoint.pt" for stage in ("distilled", "long", "backbone")],
        "VAE": [run / "decoder" / "vae"],
        "retrieval encoder": [run / "encoder" / ENCODER],
    }
    return {part: next((path for path in paths if path.exists()), None) for part, paths in stages.items()}


def trained_parts(
    run: Path, earlier: LongLiveRAGPipeline | None = None
) -> tuple[AutoencoderKLWan, TextToVideo, LatentAutoencoder | None]:
    """Load the refined VAE, the moving average of the last stage that trained the backbone, and the retrieval encoder.

    The encoder is optional: if it is None, memory searches mean-pooled latents.

    Args:
        run: the folder of the training run.
        earlier: an earlier model, whose parts replace those that the run lacks.

    Raises:
        ValueError: if stage 1 has not finished or stage 2 has no checkpoint, and there is no earlier model; or if the
            run has no part at all.
    """
    checkpoint, refined, folder = stages_of(run).values()
    if earlier is None:
        for part, place, stage in (
            (refined, "decoder/vae", "refine-decoder"),
            (checkpoint, "backbone/checkpoint.pt", "train-backbone"),
        ):
            if part is None:
                end = f"run `longlive-rag world {stage} --run {run}` to its end first"
                raise ValueError(f"{run / place} does not exist; {end}")
    elif not (checkpoint or refined or folder):
        raise ValueError(f"{run} holds nothing trained, so this would only copy the earlier model; --run names the run")
    model = TextToVideo()
    if checkpoint:
        weights = torch.load(checkpoint, weights_only=True, map_location="cpu")["average"]
        model.load_state_dict(student_of(weights) if checkpoint.parent.name == "distilled" else weights)
    elif earlier is not None:
        model.take_over(earlier.tokenizer, earlier.text_encoder, earlier.transformer)
    vae = AutoencoderKLWan.from_pretrained(refined) if refined else earlier and earlier.vae
    encoder = LatentAutoencoder.from_pretrained(folder).eval() if folder else earlier and earlier.encoder
    assert vae is not None
    return vae, model.eval(), encoder


def assemble(
    vae: AutoencoderKLWan, model: TextToVideo, encoder: LatentAutoencoder | None, folder: Path
) -> LongLiveRAGPipeline:
    """Write the pipeline folder with weights in bfloat16, replacing an existing one (but keeping its model card).

    Raises:
        ValueError: if `folder` is something else.
    """
    check_target(folder)
    share_capitals(model.tokenizer, model.text_encoder)
    pipe = LongLiveRAGPipeline(
        transformer=model.transformer,
        vae=vae,
        text_encoder=model.text_encoder,
        tokenizer=model.tokenizer,
        encoder=encoder,
        context=asdict(RUN_WITH),
        sampler=asdict(SAMPLER),
        memory={
            "encoder": "mean_pool" if encoder is None else "autoencoder",
            "prompt_weight": PROMPT_WEIGHT,
            "establish": ESTABLISH_S,
            "new_view": NEW_VIEW,
            "like_words": LIKE_WORDS,
            "policy": POLICY,
        },
        output={"height": SIZE_PX, "width": SIZE_PX, "fps": FPS, "upscale": UPSCALE},
    )
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    pipe.save_pretrained(fresh)
    for path in fresh.rglob("*.safetensors"):
        weights = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(path).items()}
        save_file(weights, path, {"format": "pt"})
    for name in KEPT:
        if (folder / name).is_file():
            shutil.copy(folder / name, fresh / name)
    write_record(fresh)
    if not folder.exists():
        fresh.replace(folder)
        return pipe
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    folder.replace(old)
    fresh.replace(folder)
    shutil.rmtree(old)
    return pipe


def check_target(folder: Path) -> None:
    """Raise ValueError unless `folder` is new, empty, or a pipeline folder, which may be replaced."""
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / INDEX).is_file())):
        raise ValueError(f"{folder} exists and is not a pipeline folder; name a new one")
