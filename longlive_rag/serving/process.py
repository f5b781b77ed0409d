"""Runs the video API's server: continues what the last one left, and serves until SIGTERM."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn

from longlive_rag.engines.engine import Engine
from longlive_rag.presets.preset import Preset, load_preset
from longlive_rag.serving.connections import PatientProtocol
from longlive_rag.serving.keys import Keys
from longlive_rag.serving.ledger import HIDDEN
from longlive_rag.serving.logs import log_config
from longlive_rag.serving.making import Setup
from longlive_rag.serving.server import build_app
from longlive_rag.serving.videos import Videos
from longlive_rag.sessions.opening import Labels, provenance_of
from longlive_rag.studio.address import Address

ENGINE = "engine"
KEEP_ALIVE_SECONDS = 15
GRACE_SECONDS = 2
MAX_SOCKET_MESSAGE = 64 * 1024
WARNING = "warning: the API is open to the network without TLS; anyone who can see its traffic can read the keys"


class Server(uvicorn.Server):
    """When told to end, parks takes at once, while requests in progress are finished.

    Args:
        config: uvicorn's.
        videos: see `Videos`.
    """

    def __init__(self, config: uvicorn.Config, videos: Videos) -> None:
        super().__init__(config)
        self._parking = threading.Thread(target=videos.making.close, name="parking")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle SIGTERM or Ctrl-C, perhaps more than once."""
        if not self.should_exit:
            self._parking.start()
        super().handle_exit(sig, frame)


@dataclass(frozen=True)
class Serving:
    """What is served, where and how.

    Attributes:
        takes: folder of takes.
        keys, address, setup: see their classes.
        log_level: level of the log on stderr.
        log_prompts: whether the log includes prompts.
    """

    takes: Path
    keys: Keys
    address: Address
    setup: Setup
    log_level: str = "info"
    log_prompts: bool = False


def presets_of(backbones: Sequence[str], labels: Labels) -> dict[str, Preset]:
    """Backbones by the names that clients use.

    Raises:
        ValueError: if one is missing, two have the same name, or the policy of `labels` forbids one's weights.
    """
    presets: dict[str, Preset] = {}
    for backbone in backbones:
        name = Path(backbone).name
        if name in presets:
            raise ValueError(f"two backbones are called {name}; clients could not tell them apart")
        presets[name] = load_preset(backbone)
        provenance_of(presets[name], labels)
    return presets


def serve(
    serving: Serving,
    open_engine: Callable[[Path], Engine],
    say: Callable[[str], None],
    warn: Callable[[str], None] = lambda sentence: None,
) -> None:
    """Serve until SIGTERM or Ctrl-C, which park the takes in progress; the next start continues them.

    Args:
        open_engine: opens the engine, given a folder for its state.
        say: called with the API's address.
        warn: called with a warning if others could read the keys.

    Raises:
        ValueError: if the address is unavailable, another server has the folder, or what it left can't be read.
        OSError: if the folder can't be made.
    """
    address = serving.address
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt), address.listen() as listening:
        (serving.takes / HIDDEN).mkdir(parents=True, exist_ok=True)
        engine = open_engine(serving.takes.resolve() / HIDDEN / ENGINE)
        with closing(engine):
            videos = Videos(serving.takes, engine, serving.setup)
            config = uvicorn.Config(
                build_app(videos, serving.keys, serving.log_prompts),
                http=PatientProtocol,
                ssl_certfile=address.tls_cert,
                ssl_keyfile=address.tls_key,
                log_config=log_config(serving.log_level),
                access_log=False,
                server_header=False,
                ws_max_size=MAX_SOCKET_MESSAGE,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=GRACE_SECONDS,
            )
            if not address.is_here and address.tls_cert is None:
                warn(WARNING)
            say(f"{address.scheme}://{address.hosts[0]}:{listening.getsockname()[1]}/v1")
            Server(config, videos).run(sockets=[listening])
