"""A WebSocket on which a client watches and directs a video while it is made."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from fastapi import WebSocket, WebSocketDisconnect
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from longlive_rag.config import Steering
from longlive_rag.engines.engine import SessionFacts
from longlive_rag.serving import schema
from longlive_rag.serving.guard import ApiError
from longlive_rag.serving.keys import ApiKey, Scope
from longlive_rag.serving.videos import Videos
from longlive_rag.studio.library import Takes, UnknownTakeError
from longlive_rag.studio.segments import Film

HELLO_SECONDS = 30.0
LOOK_SECONDS = 1.0
MAX_SOCKETS, MAX_OF_ONE_KEY = 64, 32
TOO_MANY, POLICY = 1013, 1008


@dataclass
class Sockets:
    """All open sockets.

    Attributes:
        videos: see `Videos`.
        as_api_error: the error that a client gets for an exception.
    """

    videos: Videos
    as_api_error: Callable[[Exception], ApiError]
    _open: set[Realtime] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.films = Takes(self.videos.ledger.takes)

    async def serve(self, socket: WebSocket) -> None:
        """Serve a socket until it is closed."""
        await socket.accept()
        key: ApiKey = socket.state.key
        of_key = sum(other.key.name == key.name for other in self._open)
        if len(self._open) >= MAX_SOCKETS or of_key >= MAX_OF_ONE_KEY:
            await socket.close(TOO_MANY)
            return
        realtime = Realtime(self, socket, key)
        self._open.add(realtime)
        try:
            await realtime.run()
        finally:
            self._open.discard(realtime)


class Realtime:
    """One socket, which follows one video at a time.

    Args:
        sockets: all open sockets.
        socket: this one.
        key: the client's key.

    Attributes:
        key: as given.
    """

    def __init__(self, sockets: Sockets, socket: WebSocket, key: ApiKey) -> None:
        self._sockets, self._videos, self._socket, self.key = sockets, sockets.videos, socket, key
        self._sending = asyncio.Lock()
        self._video: str | None = None
        self._stops_on_leave = False
        self._stream: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Handle the client's messages until it leaves."""
        try:
            while True:
                waiting = HELLO_SECONDS if self._stream is None else None
                text = await asyncio.wait_for(self._socket.receive_text(), waiting)
                await self._hear(text)
        except TimeoutError:
            await self._socket.close(POLICY)
        except (WebSocketDisconnect, RuntimeError, KeyError):  # it left, or sent something that isn't text
            pass
        finally:
            await self._leave()

    async def _leave(self) -> None:
        if self._video is not None and self._stops_on_leave:  # first: the server may not wait for the rest
            asyncio.get_running_loop().run_in_executor(None, self._stop, self._video)
        if self._stream is not None:
            self._stream.cancel()
            with suppress(asyncio.CancelledError, WebSocketDisconnect, RuntimeError, TimeoutError):
                await self._stream

    def _stop(self, video: str) -> None:
        with suppress(Exception):  # there is nobody left to tell
            self._videos.cancel(self.key, video)

    async def _hear(self, text: str) -> None:
        try:
            message = schema.FROM_CLIENT.validate_json(text)
            await self._do(message)
        except WebSocketDisconnect:
            raise
        except Exception as error:
            await self._refuse(error)

    async def _refuse(self, error: Exception) -> None:
        problem = self._sockets.as_api_error(error).problem
        await self._say(schema.Refused(error=schema.Problem(**problem)))

    async def _do(self, message: Any) -> None:
        needed: Scope = "read" if isinstance(message, schema.Attach) else "make"
        if needed not in self.key.scopes:
            raise ApiError(403, "insufficient_scope", f"the key {self.key.name} lacks the scope {needed}")
        match message:
            case schema.Start():
                self._check_free()
                order = schema.TakeOrder(**message.model_dump(exclude={"type", "on_leave"}))
                video = await run_in_threadpool(self._videos.create, self.key, order)
                self._stops_on_leave = message.on_leave == "stop"
                await self._begin(video, 0)
            case schema.Attach():
                self._check_free()
                video = await run_in_threadpool(self._videos.get, self.key, message.id)
                self._stops_on_leave = False
                await self._begin(video, message.from_block)
            case schema.Prompt():
                say = self._videos.engine.direct
                await self._direct(lambda session: say(session, message.prompt, message.at, message.cut))
            case schema.Steer():
                await self._steer(Steering(0.0, message.type, message.start, message.end))
            case schema.UsePolicy():
                await self._steer(Steering(0.0, "policy", policy=message.name))
            case schema.Stop():
                await run_in_threadpool(self._videos.cancel, self.key, self._about())

    def _check_free(self) -> None:
        if self._stream is not None and not self._stream.done():
            raise ApiError(409, "busy", f"this socket follows {self._video} until that has ended")

    def _about(self) -> str:
        if self._video is None:
            raise ApiError(409, "no_video", "send start or attach first")
        return self._video

    async def _steer(self, order: Steering) -> None:
        await self._direct(lambda session: self._videos.engine.steer(session, order))

    async def _direct(self, say: Callable[[str], float]) -> None:
        session = self._videos.session(self.key, self._about())
        second = await run_in_threadpool(say, session)
        await self._say(schema.Directed(takes_over_at=second))

    async def _begin(self, video: schema.Video, from_block: int) -> None:
        self._video = video.id
        await self._say(schema.Started(video=video))
        self._stream = asyncio.create_task(self._send(video, from_block))

    # ---- what is sent ----

    async def _send(self, video: schema.Video, from_block: int) -> None:
        try:
            await self._follow(video, from_block)
        except (WebSocketDisconnect, RuntimeError, TimeoutError):  # it left, or does not read
            pass
        except Exception as error:  # such as that the video was deleted
            await self._refuse(error)

    async def _follow(self, video: schema.Video, next_block: int) -> None:
        """Send a video's state and its blocks as they come, waiting for a slow client."""
        changed, loop = asyncio.Event(), asyncio.get_running_loop()

        def wake(_: SessionFacts) -> None:
            loop.call_soon_threadsafe(changed.set)

        end = self._videos.making.listen(video.id, wake)
        has_head, sent = False, (video.status, video.place)
        try:
            while True:
                changed.clear()
                video = await run_in_threadpool(self._videos.shown, video.id)
                if (video.status, video.place) != sent:
                    sent = (video.status, video.place)
                    await self._say(schema.State(video=video))
                film = await run_in_threadpool(self._film, video.id)
                for block in range(next_block, len(film.stamps) if film is not None else 0):
                    assert film is not None
                    try:
                        segment = await run_in_threadpool(film.segment, block)
                    except OSError:  # its video was replaced by another file meanwhile
                        break
                    await self._send_block(film, block, segment, has_head)
                    has_head, next_block = True, block + 1
                else:
                    if video.status in ("completed", "failed"):
                        await self._say(schema.Ended(video=video))
                        return
                with suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), LOOK_SECONDS)
        finally:
            end()

    def _film(self, video: str) -> Film | None:
        folder = self._videos.folder(self.key, video)
        try:
            return self._sockets.films.film(self._sockets.films.id_of(folder))
        except (UnknownTakeError, ValueError, OSError):  # nothing is made yet
            return None

    async def _send_block(self, film: Film, block: int, segment: bytes, has_head: bool) -> None:
        head, body = split_head(segment)
        timeline, frames = film.timeline, film.timeline.pixels_of(block)
        if not has_head:
            await self._say(schema.Init(mime=film.mime, fps=timeline.fps, bytes=len(head)), head)
        message = schema.Block(
            block=block,
            first_frame=frames.start,
            frames=len(frames),
            seconds=frames.start / timeline.fps,
            key=film.keys[block],
            bytes=len(body),
        )
        await self._say(message, body)

    async def _say(self, message: BaseModel, data: bytes | None = None) -> None:
        async with self._sending:
            await self._socket.send_text(message.model_dump_json())
            if data is not None:
                await self._socket.send_bytes(data)


def split_head(segment: bytes) -> tuple[bytes, bytes]:
    """A fragmented MP4, split into its head (`ftyp`, `moov`) and the fragments from the first `moof` on."""
    place = 0
    while place < len(segment) and segment[place + 4 : place + 8] != b"moof":
        place += max(8, int.from_bytes(segment[place : place + 4], "big"))
    return segment[:place], segment[place:]
