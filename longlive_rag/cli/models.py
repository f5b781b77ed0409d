"""`longlive-rag models`: known backbones, their files, and pipeline folders made from them."""

from __future__ import annotations

import errno
import json
import shlex
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from longlive_rag.cli.errors import Failed, refuse_bad_input
from longlive_rag.cli.settings import DTYPE, FLAGS

if TYPE_CHECKING:
    from longlive_rag.presets.catalogue import KnownBackbone
    from longlive_rag.weights.findings import Finding

FOLDER = click.Path(path_type=Path)
DTYPES = ["float32", "bfloat16", "float16"]


@click.group()
def models() -> None:
    """List, fetch, convert and check backbones.

    \b
    Get a backbone and make a first take:
      longlive-rag models show longlive-rag
      longlive-rag models fetch longlive-rag
      longlive-rag generate "a red fox in the snow" -o takes/fox --backbone longlive-rag
    """


@models.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def list_(as_json: bool) -> None:
    """List the known backbones.

    \b
    Example:
      longlive-rag models list
    """
    from longlive_rag.presets.catalogue import known_backbone, known_names
    from longlive_rag.presets.preset import is_to_fetch

    with refuse_bad_input():
        known = [known_backbone(name) for name in known_names()]
    if as_json:
        click.echo(json.dumps([_as_dict(each) for each in known], indent=2, ensure_ascii=False))
        return
    width = max(len(each.name) for each in known)
    for each in known:
        place = "inside the package" if each.built_in else "not fetched" if is_to_fetch(each.name) else "fetched"
        click.echo(f"{each.name:<{width}} {place:<19} {each.summary}")


@models.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def show(name: str, as_json: bool) -> None:
    """Show a known backbone: its settings, files and terms.

    \b
    Example:
      longlive-rag models show longlive
    """
    from longlive_rag.cli.model_page import page
    from longlive_rag.presets.catalogue import known_backbone
    from longlive_rag.presets.preset import fetched_folder

    with refuse_bad_input():
        known = known_backbone(name)
    if as_json:
        click.echo(json.dumps(_as_dict(known), indent=2, ensure_ascii=False))
        return
    if known.built_in is not None:
        click.echo(f"{known.title}: {known.summary}")
        click.echo(f"inside the package: {known.built_in}; terms: longlive-rag license show {known.built_in}")
        return
    click.echo(page(known, fetched_folder(name)))


@models.command()
@click.argument("name")
@click.option(
    "--to",
    "dest",
    type=FOLDER,
    default="downloads",
    show_default=True,
    help="Folder for the published files, laid out like the hub; existing files are kept.",
)
@click.option("--base", type=FOLDER, help="The base release, in any layout, if you already have it.")
@click.option("--mirror", type=FOLDER, help="Copy from a folder laid out like the hub (FOLDER/owner/repo/file).")
@click.option(
    "--convert/--no-convert", "converts", default=True, help="Also make the pipeline folder.  [default: convert]"
)
@click.option(
    "--dtype",
    type=click.Choice(DTYPES),
    default="bfloat16",
    show_default=True,
    help="Precision of the pipeline folder.",
)
def fetch(name: str, dest: Path, base: Path | None, mirror: Path | None, converts: bool, dtype: str) -> None:
    """Download a known backbone and convert it.

    From then on, --backbone NAME works. The pipeline folder is models/NAME, or NAME in the folder set by
    LONGLIVE_RAG_MODELS. The files come from the Hugging Face hub (with your token from its usual place; HF_ENDPOINT
    sets another address), from this machine's hub cache if HF_HUB_OFFLINE=1, or from a mirror. They are checked
    against the published hashes. Run the same command again to resume an interrupted download.

    \b
    Examples:
      longlive-rag models fetch longlive-rag
      longlive-rag models fetch longlive --to /data/hub --mirror /mnt/hub
    """
    from longlive_rag.presets.catalogue import known_backbone
    from longlive_rag.presets.preset import INDEX, fetched_folder
    from longlive_rag.sessions.opening import quiet_libraries
    from longlive_rag.weights.hub import FetchError
    from longlive_rag.weights.obtain import command_line, obtain

    with refuse_bad_input(FLAGS), quiet_libraries():
        known, folder = known_backbone(name), fetched_folder(name)
        if converts and (folder / INDEX).is_file():
            click.echo(f"{folder} already exists; to replace it, remove it and fetch again")
            return
        try:
            target = folder if converts else None
            say = partial(click.echo, err=True)
            done = obtain(known, dest, target, base=base, mirror=mirror, dtype=dtype, say=say)
        except FetchError as error:
            raise Failed(str(error)) from error
    for each in done.fetched:
        hashes = f"{each.checked} of {len(each.files)} checked against published hashes"
        click.echo(f"{each.role}: {len(each.files)} files from the {each.where} in {each.folder}, {hashes}")
    if done.converted is None:
        click.echo(f"next: {command_line('fetch', name, to=dest, base=base, mirror=mirror)}")
        return
    uncleared = [file for file in done.converted.rights if file.use != "commercial"]
    for file in uncleared:
        click.echo(f"Note: terms of {folder / file.file}: {file.in_words}", err=True)
    click.echo(f'next: longlive-rag generate "..." -o takes/first --backbone {name}')


@models.command()
@click.argument("source", type=FOLDER)
@click.argument("dest", type=FOLDER)
@click.option("--base", type=FOLDER, help="Folder with VAE, text encoder and config, if SOURCE is a single file.")
@click.option("--section", help="Entry of a training checkpoint to use: generator, generator_ema or model.")
@click.option("--lora", type=FOLDER, help="A LoRA in peft's naming, merged into the transformer.")
@click.option(
    "--lora-alpha", type=float, help="Alpha of the LoRA.  [default: from the preset or its adapter_config.json]"
)
@click.option("--keep-lora", is_flag=True, help="Store the LoRA separately instead, for load_lora_weights.")
@click.option("--encoder", type=FOLDER, help="A trained retrieval autoencoder (.pt).")
@click.option("--tiny-decoder", type=FOLDER, help="taew2_1.safetensors, for --decoder tiny.")
@click.option("--preset", metavar="NAME", help="Known backbone whose settings to use.")
@click.option("--dtype", type=click.Choice(DTYPES), help="Precision of the new files.  [default: unchanged]")
@click.option("--json", "as_json", is_flag=True, help="Print what each part was made from, as JSON.")
def convert(source: Path, dest: Path, as_json: bool, **settings: Any) -> None:
    """Convert published weights to a pipeline folder, DEST.

    SOURCE is a folder (an original Wan release, its diffusers version, or a pipeline) or, together with --base, a
    transformer checkpoint (generator, generator_ema, model; .pt or .safetensors). If any tensor has no place in the
    model, or any is missing, they are listed and nothing is written. Licence records are carried over.

    \b
    Examples:
      longlive-rag models convert Wan2.1-T2V-1.3B models/wan
      longlive-rag models convert longlive_base.pt models/longlive --base Wan2.1-T2V-1.3B --lora lora.pt \\
        --preset longlive --dtype bfloat16
    """
    from longlive_rag.sessions.opening import quiet_libraries
    from longlive_rag.weights.convert import Sources
    from longlive_rag.weights.convert import convert as make

    with refuse_bad_input(FLAGS), quiet_libraries():
        try:
            done = make(Sources(source, **settings), dest)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise Failed(f"{error.strerror}; nothing was left in {dest}") from error
    if as_json:
        made = {part: [str(path) for path in files] for part, files in done.made_from.items()}
        rights = [asdict(file) for file in done.rights]
        found = {"folder": str(dest), "made_from": made, "left_out": list(done.left_out), "rights": rights}
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    for part, files in done.made_from.items():
        click.echo(f"{dest / part}: from {', '.join(str(path) for path in files)}")
    if done.left_out:
        click.echo(f"not used from the checkpoint: {', '.join(done.left_out)}")
    unknown = sum(file.use == "unknown" for file in done.rights)
    if unknown:
        click.echo(f"Note: {unknown} files have no known terms; see longlive-rag license record --help", err=True)
    click.echo(f"next: longlive-rag models check {shlex.quote(str(dest))}")


@models.command()
@click.argument("folder", type=FOLDER)
@DTYPE
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def check(folder: Path, dtype: str, as_json: bool) -> None:
    """Check that a model folder is complete and fits here.

    Its terms are shown, too. Only headers and hashes are read. Exit code 1 if it would not load as it is.

    \b
    Example:
      longlive-rag models check models/longlive
      longlive-rag models check tiny-world
    """
    from longlive_rag.cli.doctor import line
    from longlive_rag.diagnostics.doctor import device_memory, judge, kind_of
    from longlive_rag.presets.needs import estimate
    from longlive_rag.presets.preset import find_folder, load_preset
    from longlive_rag.sessions.opening import quiet_libraries
    from longlive_rag.weights.layouts import inventory

    with refuse_bad_input(), quiet_libraries():
        if not folder.is_dir():
            folder = find_folder(str(folder))
        findings, loads = inventory(folder)
        if loads:
            device, memory = device_memory()
            needs = estimate(load_preset(str(folder)), dtype, kind_of(device))
            findings += judge(needs, device, memory)
        if len(findings) > 1:  # the folder holds at least part of a model
            findings += _terms_of(folder)
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2, ensure_ascii=False))
    else:
        for finding in findings:
            click.echo(line(finding))
    if not loads:
        raise SystemExit(1)


@models.command("embed-prompts")
@click.argument("prompts", nargs=-1)
@click.option("--backbone", required=True, metavar="NAME|FOLDER", help="Backbone whose text encoder to use.")
@click.option("--file", "prompt_file", type=FOLDER, help="File with one prompt per line; # begins a comment.")
@click.option(
    "-o", "--output", required=True, type=FOLDER, help="The .safetensors file to write; replaced if it exists."
)
def embed_prompts(prompts: tuple[str, ...], backbone: str, prompt_file: Path | None, output: Path) -> None:
    """Encode prompts for a machine that lacks room for it.

    Only the text encoder is loaded. With the file, 'longlive-rag generate --prompt-embeds FILE' needs none.

    \b
    Example:
      longlive-rag models embed-prompts "a red circle walks in a meadow" --backbone tiny-world -o prompts.safetensors
    """
    from longlive_rag.presets.preset import load_preset
    from longlive_rag.presets.prompts import read_prompts
    from longlive_rag.sessions.opening import quiet_libraries

    with refuse_bad_input(), quiet_libraries():
        if prompt_file is not None:
            prompts = (*prompts, *read_prompts(prompt_file))
        if not prompts:
            raise ValueError("no prompts given; pass them as arguments or with --file")
        if output.suffix != ".safetensors":
            raise ValueError(f"--output is {output}; its name must end in .safetensors")
        folder = load_preset(backbone).folder
        from longlive_rag.presets.embeddings import embed_with_encoder_only

        count = embed_with_encoder_only(folder, list(dict.fromkeys(prompts)), output)
    click.echo(f"{output}: {count} prompts")


def _terms_of(folder: Path) -> list[Finding]:
    """One finding per weight file; the first one without known terms has the command for all such files."""
    from longlive_rag.rights.records import folder_of, rights_of
    from longlive_rag.weights.findings import Finding

    rights, findings = rights_of(folder), []
    unknown = [str(folder_of(folder) / file.file) for file in rights if file.use == "unknown"]
    advice = f"longlive-rag license record {shlex.join(unknown)} --spdx ID --source WHERE"
    for file in rights:
        known = file.use != "unknown"
        findings.append(Finding(file.file, file.in_words, "ok" if known else "note", "" if known else advice))
        advice = advice if known else ""
    return findings


def _as_dict(known: KnownBackbone) -> dict[str, Any]:
    folders = {"built_in": known.built_in, "configs": known.configs}
    facts = {**asdict(known), **{name: None if path is None else str(path) for name, path in folders.items()}}
    facts["files"] = [
        {**asdict(files), "page": files.page, "standing": files.terms.standing, "use": files.terms.use}
        for files in known.files
    ]
    return facts
