"""The studio's server: the routes of docs/studio.md, over `Studio`."""

from __future__ import annotations

import asyncio
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, Response
from fastapi.staticfiles import StaticFiles
from pydantic import ValidationError
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.routing import WebSocketRoute

from backbone.errors import FieldError
from longlive_rag.engines.engine import UnknownSessionError
from longlive_rag.environment import plugins
from longlive_rag.presets.preset import Preset
from longlive_rag.rights.policy import LicenseError
from longlive_rag.sessions.making import reason_of
from longlive_rag.studio import orders, schema
from longlive_rag.studio.events import MAX_WINDOWS, DirectedElsewhereError, Window
from longlive_rag.studio.exports import embedders
from longlive_rag.studio.library import InUseError, UnknownTakeError
from longlive_rag.studio.live import NotLiveError
from longlive_rag.studio.schema import COMMANDS, FROM_PAGE
from longlive_rag.studio.security import EVENTS, UPLOADS, Guard, bearer, error_body
from longlive_rag.studio.studio import RefusedError, Studio
from longlive_rag.version import __version__

PAGE = Path(__file__).parent / "page"
NO_PAGE = "<!doctype html><title>longlive-rag studio</title><p>The page is not built; see docs/studio.md.</p>"
SCAN_SECONDS = 2.0
GONE = "there is no such take (any more)"
HELLO_SECONDS = 10.0
CLOSE_SECONDS = 5.0
MAX_EVENT_BYTES = 16 * 1024
NOT_LET_IN, TRY_LATER = 1008, 1013
TOO_MANY = f"{MAX_WINDOWS} windows of the studio are open, which is the maximum; close one of them"
IMMUTABLE = {"cache-control": "private, max-age=31536000, immutable"}


def build_app(studio: Studio, port: int, hosts: tuple[str, ...], scheme: str = "http") -> Guard:
    """The server's application, behind its guard.

    Args:
        port: the server's port.
        hosts, scheme: see `Guard`.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        studio.hub.start()
        watching = asyncio.create_task(_watch(studio))
        try:
            yield
        finally:
            watching.cancel()
            await run_in_threadpool(studio.close)

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None, title="longlive-rag studio")
    _add_errors(app, studio)
    _add_reads(app, studio)
    _add_commands(app, studio)
    app.router.routes.append(WebSocketRoute(EVENTS, partial(_events, studio)))
    if (PAGE / "index.html").is_file():
        app.mount("/", StaticFiles(directory=PAGE, html=True, follow_symlink=False))
    else:
        app.add_api_route("/", lambda: HTMLResponse(NO_PAGE), response_class=HTMLResponse)
    return Guard(app, studio.sessions, port, hosts, scheme)


def _add_reads(app: FastAPI, studio: Studio) -> None:
    @app.get("/api/studio")
    def facts() -> schema.StudioFacts:
        live = studio.room.current
        return schema.StudioFacts(
            version=__version__,
            takes_folder=studio.takes.root.name,
            backbones=[_backbone(name, preset, studio) for name, preset in studio.presets.items()],
            policies=sorted(plugins("policy")),
            embedders=list(embedders()),
            live=live.id if live else None,
        )

    @app.get("/api/takes")
    def takes(search: str = "") -> schema.TakeList:
        return studio.library(search[:1000])

    @app.get("/api/takes/{take}")
    def detail(take: str) -> schema.TakeDetail:
        return studio.detail(take)

    @app.get("/api/takes/{take}/segments/{block}-{stamp}.mp4")
    def segment(take: str, block: int, stamp: str) -> Response:
        return Response(studio.segment(take, block, stamp), media_type="video/mp4", headers=IMMUTABLE)

    @app.get("/api/takes/{take}/frame/{number}.jpg")
    def frame(take: str, number: int, width: int | None = None) -> Response:
        if width is not None and not 1 <= width <= 4096:
            raise FieldError("width", width, "it must be from 1 to 4096")
        return Response(studio.frame(take, number, width), media_type="image/jpeg")

    @app.get("/api/takes/{take}/like")
    def like(take: str, frame: int) -> schema.FrameHits:
        return studio.like(take, frame)

    @app.get("/api/takes/{take}/drift")
    def drift(take: str, embedder: str | None = None) -> schema.DriftFacts:
        return studio.drift(take, embedder)


def _backbone(name: str, preset: Preset, studio: Studio) -> schema.BackboneFacts:
    output, block = preset.output, preset.context.frames_per_block * preset.temporal_factor
    return schema.BackboneFacts(
        name=name,
        default=name == next(iter(studio.presets)),
        width=output.width * output.upscale,
        height=output.height * output.upscale,
        fps=output.fps,
        seconds_a_block=block / output.fps,
        settings=orders.knob_facts(preset),
    )


def _add_commands(app: FastAPI, studio: Studio) -> None:
    def claim(request: Request, by_force: bool = False) -> None:
        studio.director.claim(bearer(request.headers.getlist("authorization")) or "", by_force)

    @app.post("/api/session")
    def session(message: schema.TokenMessage) -> schema.Secret:
        secret = studio.sessions.begin(message.token)
        if secret is None:
            raise RefusedError(401, "this is not the token of the address that the studio printed")
        return schema.Secret(secret=secret)

    @app.post(UPLOADS)
    async def upload(request: Request) -> schema.UploadFacts:
        data = await request.body()
        return await run_in_threadpool(studio.uploads.add, data)

    @app.post("/api/takes")
    def begin(message: schema.NewTakeMessage, request: Request) -> schema.TakeId:
        claim(request)
        return schema.TakeId(id=studio.begin(message))

    @app.post("/api/takes/{take}/commands")
    async def command(take: str, request: Request) -> Response:
        message = COMMANDS.validate_json(await request.body())
        claim(request, isinstance(message, schema.Plain) and message.do == "take_over")
        answer = await run_in_threadpool(studio.command, take, message)
        return Response(answer.model_dump_json(), media_type="application/json")

    @app.post("/api/backbones/{name}/words")
    def words(name: str, message: schema.PromptMessage) -> schema.UnknownWords:
        return schema.UnknownWords(unknown_words=studio.words(name, message.prompt))

    @app.post("/api/takes/{take}/export")
    def export(take: str, message: schema.ExportMessage) -> Response:
        target = Path(tempfile.mkdtemp(dir=studio.temporary))
        try:
            file = studio.export(take, message, target)
        except BaseException:
            shutil.rmtree(target, ignore_errors=True)
            raise
        done = BackgroundTask(shutil.rmtree, target, ignore_errors=True)
        return FileResponse(file, filename=file.name, background=done)


def _add_errors(app: FastAPI, studio: Studio) -> None:
    def answer(status: int, message: str, fields: Sequence[Mapping[str, Any]] = ()) -> Response:
        return Response(
            error_body(studio.one_line(message), [dict(each) for each in fields]), status, None, "application/json"
        )

    def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, RefusedError)
        return answer(error.status, error.message)

    def bad_value(_: Request, error: Exception) -> Response:
        fields = []
        if isinstance(error, FieldError):
            value = error.value if isinstance(error.value, str | int | float | bool) else None
            value = studio.without_paths(value) if isinstance(value, str) else value
            text, wanted = studio.one_line(str(error)), studio.one_line(error.wanted)
            fields = [{"field": name, "value": value, "wanted": wanted, "message": text} for name in error.fields]
        return answer(422, str(error), fields)

    def bad_message(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError | ValidationError)
        fields: list[dict[str, Any]] = []
        skipped = 1 if isinstance(error, ValidationError) else 0  # the kind of command
        for each in error.errors():
            parts = each["loc"][skipped:] if len(each["loc"]) > 1 else each["loc"]
            place = [str(part) for part in parts if part not in ("body", "query", "path")]
            fields.append(_wrong(each, ".".join(place) or "it"))
        return answer(422, fields[0]["message"] if fields else "invalid request", fields)

    constant: dict[type[Exception], tuple[int, str]] = {
        UnknownTakeError: (404, GONE),
        FileNotFoundError: (404, GONE),  # deleted meanwhile
        NotLiveError: (409, "this take is not being made now"),
        UnknownSessionError: (409, "this take is no longer being made"),
        DirectedElsewhereError: (
            409,
            "the studio is directed from another window; take over, or wait until it is closed",
        ),
    }
    for kind, (status, message) in constant.items():
        app.add_exception_handler(kind, _constant(answer, status, message))
    app.add_exception_handler(RefusedError, refused)
    app.add_exception_handler(InUseError, lambda _, error: answer(409, str(error)))
    app.add_exception_handler(RequestValidationError, bad_message)
    app.add_exception_handler(ValidationError, bad_message)
    app.add_exception_handler(LicenseError, lambda _, error: answer(422, str(error)))
    app.add_exception_handler(ValueError, bad_value)
    app.add_exception_handler(OSError, lambda _, error: answer(500, reason_of(error)))
    app.add_exception_handler(HTTPException, lambda _, error: answer(error.status_code, str(error.detail)))  # type: ignore[attr-defined]
    app.add_exception_handler(Exception, lambda _, error: answer(500, "internal error; the studio's terminal says why"))


def _constant(answer: Callable[..., Response], status: int, message: str) -> Callable[[Request, Exception], Response]:
    return lambda _, error: answer(status, message)


# ---- events ----


async def _events(studio: Studio, socket: WebSocket) -> None:
    """Serve a window: its first message has its session's secret, and then it receives events."""
    await socket.accept()
    secret = await _secret_of(socket)
    if secret is None or not studio.sessions.knows(secret):
        await socket.close(NOT_LET_IN)
        return
    window = studio.hub.join(secret)
    if window is None:
        await socket.close(TRY_LATER, TOO_MANY)
        return
    studio.director.joined(secret)
    _keep_pace(studio)
    live = studio.room.current
    window.events.put_nowait(schema.Hello(live=live.id if live else None).model_dump_json())
    work = [_send(socket, window.events), _listen(studio, window, socket), window.dropped.wait()]
    tasks = [asyncio.create_task(each) for each in work]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        studio.hub.leave(window)
        studio.director.left(secret)
        _keep_pace(studio)
    with suppress(WebSocketDisconnect, RuntimeError, TimeoutError):
        await asyncio.wait_for(socket.close(TRY_LATER), CLOSE_SECONDS)


def _keep_pace(studio: Studio) -> None:
    """Adapt the pace after a viewer came or left, without waiting for it."""
    asyncio.get_running_loop().run_in_executor(None, studio.room.keep_pace)


async def _secret_of(socket: WebSocket) -> str | None:
    with suppress(asyncio.TimeoutError, WebSocketDisconnect, ValueError, KeyError):
        text = await asyncio.wait_for(socket.receive_text(), HELLO_SECONDS)
        return schema.Secret.model_validate_json(text[:MAX_EVENT_BYTES]).secret
    return None


async def _send(socket: WebSocket, events: asyncio.Queue[str]) -> None:
    with suppress(WebSocketDisconnect, RuntimeError):
        while True:
            await socket.send_text(await events.get())


async def _listen(studio: Studio, window: Window, socket: WebSocket) -> None:
    with suppress(WebSocketDisconnect, RuntimeError, KeyError):
        while True:
            text = await socket.receive_text()
            if len(text) <= MAX_EVENT_BYTES:
                await _hear(studio, window, text)


async def _hear(studio: Studio, window: Window, text: str) -> None:
    try:
        message = FROM_PAGE.validate_json(text)
    except ValidationError:
        return
    if window.watches != message.take:
        window.watches = message.take
        _keep_pace(studio)
    if isinstance(message, schema.Playhead):
        if studio.director.may(window.secret):
            await run_in_threadpool(studio.room.playhead, message.take, message.seconds)
    elif message.type == "direct_lock":
        with suppress(DirectedElsewhereError):
            studio.director.claim(window.secret)


async def _watch(studio: Studio) -> None:
    """Announce changes in the folder of takes, whoever makes them."""
    seen, gone = await run_in_threadpool(studio.takes.scan), set[str]()
    while True:
        await asyncio.sleep(SCAN_SECONDS)
        now = await run_in_threadpool(studio.takes.scan)
        live = studio.room.current
        changed = [take for take in now if seen.get(take) != now[take] and (live is None or live.id != take)]
        listed = await run_in_threadpool(studio.listed, changed)
        say = studio.room.say_unless_made
        for facts in listed.takes:
            await run_in_threadpool(say, facts.id, schema.TakeEvent(take=facts))
        for left_out in listed.left_out:
            await run_in_threadpool(say, left_out.id, schema.LeftOutEvent(take=left_out))
        gone -= now.keys()
        for take in studio.takes.ids - now.keys() - gone:
            if await run_in_threadpool(say, take, schema.GoneEvent(take=take)):
                gone.add(take)
        seen = now


def _wrong(each: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A validation error of pydantic about a field, in our words."""
    wanted = re.sub("^(Input|String) should", "it should", str(each["msg"]))
    message = f"{name}: {wanted}"
    if each["type"] == "missing":
        wanted, message = "required", f"{name} is missing"
    elif each["type"] == "extra_forbidden":
        wanted, message = "leave it out", f"unknown field {name}"
    elif each["type"] == "union_tag_invalid":
        name = str(each["ctx"]["discriminator"]).strip("'")
        wanted = f"it must be one of {each['ctx']['expected_tags']}".replace("'", "")
        message = f"{name} is {str(each['ctx']['tag'])[:40]!r}; {wanted}"
    return {"field": name, "value": None, "wanted": wanted, "message": message}
