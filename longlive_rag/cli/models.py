"""`longlive-rag models`: known backbones, their files, and pipeline folders made of them."""

from __future__ import annotations

import errno
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from longlive_rag.cli.errors import Failed, refuse_bad_input
from longlive_rag.cli.settings import FLAGS

if TYPE_CHECKING:
    from longlive_rag.presets.catalogue import KnownBackbone, ReleasedFiles
    from longlive_rag.weights.findings import Finding
    from longlive_rag.weights.hub import Fetched

FOLDER = click.Path(path_type=Path)


@click.group()
def models() -> None:
    """List known backbones, get one, and check that it is complete.

    \b
    From published files to a first take:
      longlive-rag models show longlive
      longlive-rag models fetch longlive
      longlive-rag models convert downloads/longlive/transformer/models/longlive_base.pt models/longlive \\
        --base downloads/longlive/base --lora downloads/longlive/lora/models/lora.pt \\
        --preset longlive --dtype bfloat16
      longlive-rag models check models/longlive
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

    with refuse_bad_input():
        known = [known_backbone(name) for name in known_names()]
    if as_json:
        click.echo(json.dumps([_as_dict(each) for each in known], indent=2, ensure_ascii=False))
        return
    for each in known:
        place = "inside the package" if each.built_in else "to fetch"
        click.echo(f"{each.name:<16} {place:<19} {each.summary}")


@models.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def show(name: str, as_json: bool) -> None:
    """Show the files, settings and terms of a known backbone.

    \b
    Example:
      longlive-rag models show longlive
    """
    from longlive_rag.presets.catalogue import known_backbone

    with refuse_bad_input():
        known = known_backbone(name)
    if as_json:
        click.echo(json.dumps(_as_dict(known), indent=2, ensure_ascii=False))
        return
    click.echo(f"{known.title}: {known.summary}")
    if known.built_in is not None:
        click.echo(f"inside the package: {known.built_in}; terms: longlive-rag license show {known.built_in}")
        return
    for part in ("context", "sampler", "memory", "output"):
        click.echo(f"{part}: " + ", ".join(_settings(asdict(getattr(known, part)))))
    for files in known.files:
        click.echo(f"{files.role}: {files.repo}, {', '.join(files.names)}")
        click.echo(f"  terms: {_terms(files)}")
    click.echo(f"next: longlive-rag models fetch {known.name}")


@models.command()
@click.argument("name")
@click.option(
    "--to", "dest", type=FOLDER, help="Folder for the files, default downloads/NAME; existing files are kept."
)
@click.option("--mirror", type=FOLDER, help="Copy from a folder laid out like the hub: FOLDER/owner/repo/file.")
def fetch(name: str, dest: Path | None, mirror: Path | None) -> None:
    """Download the published files of a known backbone and compare them with the published hashes; resumable.

    They come from the Hugging Face hub (with your token from its usual place; HF_ENDPOINT for another address), with
    HF_HUB_OFFLINE=1 from the files already on this machine, or from a mirror.

    \b
    Examples:
      longlive-rag models fetch longlive
      longlive-rag models fetch longlive --to /data/longlive --mirror /mnt/hub
    """
    from longlive_rag.presets.catalogue import known_backbone
    from longlive_rag.weights.hub import FetchError
    from longlive_rag.weights.hub import fetch as get

    with refuse_bad_input():
        known = known_backbone(name)
        try:
            fetched = get(known, dest or Path("downloads") / name, mirror, lambda line: click.echo(line, err=True))
        except FetchError as error:
            raise Failed(str(error)) from error
    for each in fetched:
        hashes = f"{each.checked} of {len(each.files)} compared with published hashes"
        click.echo(f"{each.folder}: {len(each.files)} files from the {each.where}, {hashes}")
    for files in known.files:
        if files.use == "unknown":
            click.echo(f"Note: the terms of {files.repo} are not on record; read {files.source}", err=True)
    click.echo("next: " + _convert_command(known, fetched, name))


@models.command()
@click.argument("source", type=FOLDER)
@click.argument("dest", type=FOLDER)
@click.option("--base", type=FOLDER, help="Folder with VAE, text encoder and config, if SOURCE is one file.")
@click.option("--section", help="Entry of a training checkpoint: generator, generator_ema or model.")
@click.option("--lora", type=FOLDER, help="A LoRA in peft's naming, merged into the transformer.")
@click.option("--lora-alpha", type=float, help="Of the LoRA; default: the preset's, or its adapter_config.json.")
@click.option("--keep-lora", is_flag=True, help="Store the LoRA separately instead, for load_lora_weights.")
@click.option("--encoder", type=FOLDER, help="A trained retrieval autoencoder (.pt).")
@click.option("--tiny-decoder", type=FOLDER, help="taew2_1.safetensors, for --decoder tiny.")
@click.option("--preset", metavar="NAME", help="Known backbone whose settings the folder gets.")
@click.option(
    "--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), help="Of the new files; default: unchanged."
)
@click.option("--json", "as_json", is_flag=True, help="Print what each part was made from, as JSON.")
def convert(source: Path, dest: Path, as_json: bool, **settings: Any) -> None:
    """Convert published weights to a pipeline folder, DEST.

    SOURCE is a folder (the original Wan2.1 release, diffusers', a pipeline) or a checkpoint with a transformer
    (generator, generator_ema, model; .pt or .safetensors) together with --base. Every tensor must have its place;
    if any does not fit, they are listed and nothing is written. Licence records are carried over.

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
            raise Failed(f"{error.strerror}; nothing was kept of {dest}") from error
    if as_json:
        made = {part: [str(path) for path in files] for part, files in done.made_from.items()}
        rights = [asdict(file) for file in done.rights]
        found = {"folder": str(dest), "made_from": made, "left_out": list(done.left_out), "rights": rights}
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    for part, files in done.made_from.items():
        click.echo(f"{dest / part}: from {', '.join(str(path) for path in files)}")
    if done.left_out:
        click.echo(f"left out of the checkpoint: {', '.join(done.left_out)}")
    unknown = sum(file.use == "unknown" for file in done.rights)
    if unknown:
        click.echo(f"Note: {unknown} files have no known terms; see longlive-rag license record --help", err=True)
    click.echo(f"next: longlive-rag models check {dest}")


@models.command()
@click.argument("folder", type=FOLDER)
@click.option(
    "--dtype", type=click.Choice(["float32", "bfloat16"]), help="Of the transformer; default: what suits this machine."
)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def check(folder: Path, dtype: str | None, as_json: bool) -> None:
    """Check whether a model folder is complete, loads and fits this machine, and show its terms.

    Reads only headers and hashes; exit code 1 if it would not load as it is.

    \b
    Example:
      longlive-rag models check models/longlive
      longlive-rag models check tiny-world
    """
    from longlive_rag.cli.doctor import line
    from longlive_rag.diagnostics.doctor import device_memory, judge, kind_of, usual_dtype
    from longlive_rag.presets.needs import estimate
    from longlive_rag.presets.preset import BUILT_IN, load_preset
    from longlive_rag.sessions.opening import quiet_libraries
    from longlive_rag.weights.layouts import inventory

    with refuse_bad_input(), quiet_libraries():
        if not folder.is_dir():
            if str(folder) not in BUILT_IN:
                raise ValueError(f"{folder} is neither a folder nor a built-in backbone ({', '.join(BUILT_IN)})")
            folder = BUILT_IN[str(folder)]
        findings, loads = inventory(folder)
        if loads:
            device, memory = device_memory()
            needs = estimate(load_preset(str(folder)), dtype or usual_dtype(device), kind_of(device))
            findings += judge(needs, device, memory)
        if len(findings) > 1:  # something of a model is there
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
@click.option("--backbone", required=True, metavar="NAME|FOLDER", help="Whose text encoder.")
@click.option("--file", "prompt_file", type=FOLDER, help="A file with one prompt per line; # begins a comment.")
@click.option("-o", "--output", required=True, type=FOLDER, help="A .safetensors file; replaced if it exists.")
def embed_prompts(prompts: tuple[str, ...], backbone: str, prompt_file: Path | None, output: Path) -> None:
    """Encode prompts on a machine with room for the text encoder; nothing else is loaded.

    `longlive-rag generate --prompt-embeds FILE` then needs no text encoder.

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
    """A line a weight file, and on the first that has no terms, what to do."""
    from longlive_rag.rights.records import rights_of
    from longlive_rag.weights.findings import Finding

    advice, findings = f"longlive-rag license record {folder} --spdx ID --source WHERE", []
    for file in rights_of(folder):
        known = file.use != "unknown"
        findings.append(Finding(file.file, file.in_words, "ok" if known else "note", "" if known else advice))
        advice = advice if known else ""
    return findings


def _settings(values: dict[str, Any]) -> list[str]:
    """Fields and values as one would say them; what is not set is left out."""
    said = []
    for name, value in values.items():
        if value is None or value == ():
            continue
        shown = " ".join(f"{each:g}" for each in value) if isinstance(value, tuple) else value
        shown = {True: "yes", False: "no"}.get(value, shown) if isinstance(value, bool) else shown
        said.append(
            f"{name.replace('_', ' ')} {shown:g}" if isinstance(value, float) else f"{name.replace('_', ' ')} {shown}"
        )
    return said


def _terms(files: ReleasedFiles) -> str:
    if files.spdx is None:
        return f"not verified here, counted as unknown (said to be: {files.said}); read {files.source}"
    return f"{files.spdx}, looked up by {files.looked_up_by} on {files.looked_up_on} at {files.source}"


def _convert_command(known: KnownBackbone, fetched: list[Fetched], name: str) -> str:
    paths = {each.folder.name: each for each in fetched}
    words = ["longlive-rag models convert"]
    if "transformer" in paths:
        words += [str(paths["transformer"].files[0]), f"models/{name}", f"--base {paths['base'].folder}"]
    else:
        words += [str(paths["base"].folder), f"models/{name}"]
    for role in ("lora", "encoder"):
        if role in paths:
            words.append(f"--{role} {paths[role].files[0]}")
    return " ".join([*words, f"--preset {known.name}", "--dtype bfloat16"])


def _as_dict(known: KnownBackbone) -> dict[str, Any]:
    folders = {"built_in": known.built_in, "configs": known.configs}
    facts = {**asdict(known), **{name: None if path is None else str(path) for name, path in folders.items()}}
    facts["files"] = [{**asdict(files), "use": files.use} for files in known.files]
    return facts
