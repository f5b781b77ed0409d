"""What the commands that serve takes have in common: options of `studio`, `serve` and `mcp`, and engines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from backbone.errors import FieldError, Name
from longlive_rag.cli.errors import Refused
from longlive_rag.cli.settings import Decorator, options
from longlive_rag.presets.preset import BUILT_IN, DEFAULT_BACKBONE

if TYPE_CHECKING:
    from longlive_rag.engines.engine import Engine

EXTRAS = {
    "studio": ("fastapi", "starlette", "uvicorn", "websockets", "prometheus_client", "python_multipart"),
    "mcp": ("mcp", "mcp_types", "anyio"),
}
"""What an extra of this package installs, as it is imported."""
FLAGS = {
    "host": "--host", "tls_cert": "--tls-cert", "tls_key": "--tls-key", "engine": "--engine", "address": "--address",
    "device": "--device", "workers": "--workers", "gpus_per_worker": "--gpus-per-worker",
}  # fmt: skip
"""Field of a `FieldError` -> the option that sets it."""


def takes_option(help_: str) -> Decorator:
    """`--takes`, the folder that is served."""
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
    help=f"A known name ({', '.join(BUILT_IN)}) or a pipeline folder; repeat for more, the first is the default.  "
    f"[default: {DEFAULT_BACKBONE}]",
)


def listening_at(port: int) -> Decorator:
    """Where a server listens, as `studio.address.Address` takes it; `port` is the default."""
    return options(
        click.option(
            "--port",
            type=click.IntRange(0, 65535),
            default=port,
            metavar="N",
            show_default=True,
            help="0 is any free one.",
        ),
        click.option(
            "--host",
            default="127.0.0.1",
            metavar="ADDRESS",
            show_default=True,
            help="Another one needs --tls-cert and --tls-key, or --insecure-network.",
        ),
        click.option(
            "--tls-cert", type=click.Path(path_type=Path), metavar="FILE", help="Certificate for https, as PEM."
        ),
        click.option("--tls-key", type=click.Path(path_type=Path), metavar="FILE", help="Its key, as PEM."),
        click.option("--insecure-network", is_flag=True, help="Allow an address of a network without TLS."),
    )


engine_options = options(
    click.option(
        "--engine",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help="Workers are processes of this machine, or actors of a Ray cluster that shares the folder of takes.",
    ),
    click.option(
        "--address",
        metavar="ADDRESS",
        help="Of the Ray cluster. Default: RAY_ADDRESS, else one is started on this machine.",
    ),
    click.option(
        "--gpus-per-worker",
        type=float,
        metavar="SHARE",
        help="On Ray, above 0 and at most 1.  [default: 1, or none where the cluster has none]",
    ),
    click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda; on Ray, workers have theirs."),
)
"""Where takes are made, as `open_engine` takes it."""


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
    """The engine that the options of `engine_options` ask for.

    Args:
        state, workers, license_policy: as in `local_engine`.
        max_waiting: sessions that wait at most; None is as many as usual.

    Raises:
        ValueError, OSError: if the options don't go together, or there are no such workers.
    """
    from longlive_rag.engines.supervisor import Limits

    limits = Limits() if max_waiting is None else Limits(waiting=max_waiting)
    if engine == "ray":
        from longlive_rag.engines.on_ray import ray_engine
        from longlive_rag.sessions.ray_workers import check_installed, check_share

        check_installed()
        check_share(gpus_per_worker)
        if device != "auto":
            raise FieldError("device", device, "leave it out: a Ray cluster's actors have what they are given")
        return ray_engine(state, address, workers, gpus_per_worker, limits, license_policy)
    for name, value in {"address": address, "gpus_per_worker": gpus_per_worker}.items():
        if value is not None:
            raise FieldError(name, value, claim=(Name(name), " is for a Ray cluster; add --engine ray"))
    from longlive_rag.engines.local import local_engine

    return local_engine(state, workers, device, limits, license_policy)


@contextmanager
def needing(extra: str) -> Iterator[None]:
    """Say what to install where a module of an extra is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in EXTRAS[extra]:
            raise
        raise Refused(f"{error.name} is missing; this needs it: pip install 'longlive-rag[{extra}]'") from error
