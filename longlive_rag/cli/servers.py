"""Options shared by the commands that serve takes (`studio`, `serve` and `mcp`), and the engine that they describe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from backbone.errors import FieldError, Name
from longlive_rag.cli.errors import Refused
from longlive_rag.cli.settings import ADDRESS, Decorator, options
from longlive_rag.presets.preset import DEFAULT_BACKBONE

if TYPE_CHECKING:
    from longlive_rag.engines.engine import Engine

EXTRAS = {
    "studio": ("fastapi", "starlette", "uvicorn", "websockets", "prometheus_client", "python_multipart"),
    "mcp": ("mcp", "mcp_types", "anyio"),
}
"""Modules that each extra of this package installs."""


def takes_option(help_: str) -> Decorator:
    """Make the option `--takes`, the folder that is served."""
    return click.option(
        "--takes",
        type=click.Path(path_type=Path),
        default=Path("takes"),
        metavar="FOLDER",
        show_default=True,
        help=help_,
    )


BACKBONES: Decorator = click.option(
    "--backbone",
    "backbones",
    multiple=True,
    metavar="NAME|FOLDER",
    help="A name in 'models list', or a pipeline folder. Repeat for more; the first is the default.  "
    f"[default: {DEFAULT_BACKBONE}]",
)


def listening_at(port: int) -> Decorator:
    """Make the options for where a server listens, as `studio.address.Address` takes them; `port` is the default."""
    return options(
        click.option(
            "--port",
            type=click.IntRange(0, 65535),
            default=port,
            metavar="N",
            show_default=True,
            help="Port to listen on; 0 picks a free one.",
        ),
        click.option(
            "--host",
            default="127.0.0.1",
            metavar="ADDRESS",
            show_default=True,
            help="Address to listen on; a network address needs --tls-cert and --tls-key, or --insecure-network.",
        ),
        click.option(
            "--tls-cert", type=click.Path(path_type=Path), metavar="FILE", help="TLS certificate (PEM), for HTTPS."
        ),
        click.option(
            "--tls-key", type=click.Path(path_type=Path), metavar="FILE", help="Private key of the certificate (PEM)."
        ),
        click.option("--insecure-network", is_flag=True, help="Allow a network address without TLS."),
    )


engine_options = options(
    click.option(
        "--engine",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help="Run workers as processes on this machine, or as actors of a Ray cluster that shares the folder of takes.",
    ),
    ADDRESS,
    click.option(
        "--gpus-per-worker",
        type=float,
        metavar="SHARE",
        help="GPUs per worker on Ray, above 0 and at most 1.  [default: 1, or 0 if the cluster has none]",
    ),
    click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda; Ray assigns devices itself."),
)
"""Options that say where takes are made, as `open_engine` takes them."""


def open_engine(
    state: Path,
    engine: str,
    address: str | None,
    gpus_per_worker: float | None,
    device: str,
    workers: int | None = None,
    max_waiting: int | None = None,
    license_policy: str | None = None,
) -> Engine:
    """Open the engine that `engine_options` describe.

    Args:
        state, workers, license_policy: as in `local_engine`.
        max_waiting: maximum number of queued sessions; None is the default of `Limits`.

    Raises:
        ValueError, OSError: if the options contradict each other, or the workers can't be had.
    """
    from longlive_rag.engines.supervisor import Limits

    limits = Limits() if max_waiting is None else Limits(waiting=max_waiting)
    if engine == "ray":
        from longlive_rag.engines.on_ray import ray_engine
        from longlive_rag.sessions.ray_workers import check_installed, check_share

        check_installed()
        check_share(gpus_per_worker)
        if device != "auto":
            raise FieldError("device", device, "drop it: Ray assigns devices to its actors")
        return ray_engine(state, address, workers, gpus_per_worker, limits, license_policy)
    for name, value in {"address": address, "gpus_per_worker": gpus_per_worker}.items():
        if value is not None:
            raise FieldError(name, value, claim=(Name(name), " is for a Ray cluster; add --engine ray"))
    from longlive_rag.engines.local import local_engine

    return local_engine(state, workers, device, limits, license_policy)


@contextmanager
def needing(extra: str) -> Iterator[None]:
    """Turn a missing module of an extra into `Refused`, with the command that installs it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in EXTRAS[extra]:
            raise
        raise Refused(f"{error.name} is not installed; to add it: pip install 'longlive-rag[{extra}]'") from error
