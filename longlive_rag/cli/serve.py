"""`longlive-rag serve`: the video API."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from longlive_rag.cli.errors import refuse_bad_input
from longlive_rag.cli.servers import (
    BACKBONES,
    engine_options,
    listening_at,
    needing,
    open_engine,
    takes_option,
)
from longlive_rag.cli.settings import CODEC, DECODER, DTYPE, FLAGS, Duration, with_checkpoints, with_rights
from longlive_rag.presets.preset import DEFAULT_BACKBONE


@click.command()
@takes_option("Folder of takes, with a subfolder for each key.")
@BACKBONES
@listening_at(8161)
@click.option(
    "--api-key",
    metavar="KEY",
    help="A key with all permissions. It is visible to others in this machine's process list: prefer "
    "LONGLIVE_RAG_API_KEY or --keys.",
)
@click.option(
    "--keys", type=click.Path(path_type=Path), metavar="FILE", help="TOML file of keys with their scopes and quotas."
)
@engine_options
@click.option(
    "--workers", type=int, metavar="N", help="Takes made at once.  [default: one per GPU, or one without GPUs]"
)
@click.option(
    "--max-seconds",
    type=Duration(min=0, min_open=True),
    default=3600.0,
    show_default=True,
    help="Maximum length of a video.",
)
@click.option(
    "--max-waiting",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help="Maximum number of queued videos.",
)
@DTYPE
@CODEC
@DECODER
@with_checkpoints
@with_rights
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="Level of the log on stderr (one JSON object per line).",
)
@click.option("--log-prompts", is_flag=True, help="Include prompts in the log.")
def serve(**options: Any) -> None:
    """Serve videos over an OpenAI-compatible API; OpenAI's clients work unchanged.

    The command prints the address to give to clients. Requests need a key: a single one set by --api-key, or several
    in a --keys file, each with its scopes (read, make, admin) and quotas:

    \b
      [[keys]]
      name = "team-a"
      key = "at-least-16-characters"  # or sha256 = "..."
      scopes = ["read", "make"]
      takes_at_once = 4
      seconds_a_day = 600
      disk_gib = 20
      requests_a_minute = 600

    Videos are ordinary takes. On SIGTERM or Ctrl-C, those being made are parked within 10 s; the next server on the
    same folder resumes them, bit for bit, and makes those still queued. /docs describes the API.

    \b
    Examples:
      LONGLIVE_RAG_API_KEY=at-least-16-characters longlive-rag serve
      longlive-rag serve --keys keys.toml --workers 2 --license-policy commercial
      longlive-rag serve --keys keys.toml --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem
    """
    with needing("studio"):
        _serve(**options)


def _serve(
    takes: Path,
    backbones: tuple[str, ...],
    port: int,
    host: str,
    tls_cert: Path | None,
    tls_key: Path | None,
    insecure_network: bool,
    api_key: str | None,
    keys: Path | None,
    max_seconds: float,
    dtype: Any,
    codec: Any,
    decoder: Any,
    checkpoint: Any,
    checkpoint_gib: float | None,
    license_policy: str | None,
    deliverable: bool,
    phase: str | None,
    show_label: bool,
    log_level: str,
    log_prompts: bool,
    **engine: Any,
) -> None:
    from longlive_rag.config import CheckpointConfig
    from longlive_rag.rights.policy import pick_policy
    from longlive_rag.serving.asking import Limits
    from longlive_rag.serving.making import Setup
    from longlive_rag.serving.process import Serving, presets_of, serve
    from longlive_rag.sessions.opening import Labels, Opening
    from longlive_rag.studio.address import Address
    from longlive_rag.takes.folder import check_folder_writable

    with refuse_bad_input(FLAGS):
        check_folder_writable(takes)
        address = Address(host, port, tls_cert, tls_key, insecure_network)
        labels = Labels(pick_policy(license_policy), deliverable, phase, show_label)
        setup = Setup(
            presets_of(backbones or (DEFAULT_BACKBONE,), labels),
            Opening(dtype=dtype, codec=codec, decoder=decoder),
            labels,
            CheckpointConfig().changed(checkpoint, checkpoint_gib),
            Limits(max_seconds),
        )
        serving = Serving(takes, _keys(api_key, keys), address, setup, log_level, log_prompts)
        opened = partial(open_engine, license_policy=labels.license_policy, **engine)
        serve(serving, opened, click.echo, partial(click.echo, err=True))


def _keys(api_key: str | None, file: Path | None) -> Any:
    """Read the keys from the options or the environment."""
    from longlive_rag.environment import API_KEY_VARIABLE, stated_api_key
    from longlive_rag.serving.keys import ApiKey, Keys, check_secret, read_keys

    if api_key is not None and file is not None:
        raise ValueError("--api-key and --keys are both given; put the key in the file")
    if file is not None:
        return read_keys(file)
    secret = api_key if api_key is not None else stated_api_key()
    if secret is None:
        raise ValueError(f"no API key; set {API_KEY_VARIABLE}, or give --api-key KEY or --keys FILE")
    check_secret(secret, API_KEY_VARIABLE if api_key is None else "--api-key")
    return Keys([ApiKey(name="admin", key=secret, scopes=("read", "make", "admin"), requests_a_minute=None)])
