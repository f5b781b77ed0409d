"""The video API: routes over `Videos`, and error responses."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import FileResponse, HTMLResponse, Response
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.routing import WebSocketRoute

from backbone.errors import FieldError
from longlive_rag.engines.engine import QueueFullError
from longlive_rag.presets.preset import Preset
from longlive_rag.serving import schema
from longlive_rag.serving.asking import OFFERED, order_of_form, picture_in, size_step
from longlive_rag.serving.errors import as_api_error
from longlive_rag.serving.guard import FORM, ApiError, Guard, Seen
from longlive_rag.serving.keys import ApiKey, Keys, Scope
from longlive_rag.serving.ledger import Entry
from longlive_rag.serving.limits import OverQuotaError
from longlive_rag.serving.logs import log_request, log_video
from longlive_rag.serving.making import NotReadyError, UnknownVideoError
from longlive_rag.serving.metrics import Metrics
from longlive_rag.serving.pages import docs_page
from longlive_rag.serving.realtime import Sockets
from longlive_rag.serving.videos import Videos
from longlive_rag.takes.folder import CONTACT_SHEET
from longlive_rag.version import __version__

MAX_FORM_FIELDS, MAX_FIELD_BYTES = 1000, 64 * 1024
MOST_LISTED = 100
THUMBNAIL_WIDTH = 512
POLL_HEADER = "openai-poll-after-ms"
POLL_MS = 500
REALTIME = "/v1/realtime/video"
ABOUT = """OpenAI's video API, whose clients work unchanged, with additions for what takes can do.

Every request needs a key, in the header `Authorization: Bearer KEY`. Errors are `{"error": {"message", "type", "param",
"code"}}`; `param` is the field that the error is about."""


def build_app(videos: Videos, keys: Keys, log_prompts: bool = False) -> Guard:
    """The server's application, behind its guard.

    Args:
        videos, keys: what is served, and to whom.
        log_prompts: whether the log includes prompts.
    """
    metrics = Metrics(videos, keys)
    sockets = Sockets(videos, as_api_error)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(videos.making.go_on)
        try:
            yield
        finally:
            await run_in_threadpool(videos.making.close)

    app = FastAPI(
        title="longlive-rag", version=__version__, description=ABOUT, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    app.state.videos = videos
    app.openapi = partial(_openapi, app)  # type: ignore[method-assign]
    _add_errors(app)
    _add_videos(app)
    _add_commands(app)
    _add_status(app, videos, metrics)
    app.router.routes.append(WebSocketRoute(REALTIME, sockets.serve))

    def on_request(seen: Seen) -> None:
        log_request(seen)
        metrics.on_request(seen)

    def on_end(entry: Entry) -> None:
        log_video(f"video {entry.result}", entry, log_prompts)
        metrics.on_end(entry)

    videos.making.on_begin = partial(log_video, "video queued", prompts=log_prompts)
    videos.making.on_facts, videos.making.on_end = metrics.on_facts, on_end
    return Guard(app, keys, on_request)


def needs(scope: Scope) -> Callable[[Request], ApiKey]:
    """A dependency that returns a request's key, and refuses one without the scope."""

    def key(request: Request) -> ApiKey:
        found: ApiKey = request.state.key
        if scope not in found.scopes:
            raise ApiError(403, "insufficient_scope", f"the key {found.name} lacks the scope {scope}")
        return found

    return key


Reader = Annotated[ApiKey, Depends(needs("read"))]
Maker = Annotated[ApiKey, Depends(needs("make"))]
Admin = Annotated[ApiKey, Depends(needs("admin"))]


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The API's OpenAPI description, with the bodies that routes parse themselves."""
    if app.openapi_schema is None:
        found = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        messages = (schema.VideoOrder, schema.RemixOrder, schema.ExtendOrder, schema.ErrorAnswer)
        pairs: list[Any] = [(message, "validation") for message in messages]
        extra = models_json_schema(pairs, ref_template="#/components/schemas/{model}")[1]["$defs"]
        found["components"]["schemas"] |= extra
        for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's; our errors look different
            found["components"]["schemas"].pop(name, None)
        for methods in found["paths"].values():
            for facts in methods.values():
                facts["responses"].pop("422", None)
                answer = {"schema": {"$ref": "#/components/schemas/ErrorAnswer"}}
                facts["responses"]["4XX"] = {"description": "Refused.", "content": {"application/json": answer}}
        app.openapi_schema = found
    return app.openapi_schema


def _add_errors(app: FastAPI) -> None:
    def answer(request: Request, error: Exception) -> Response:
        found = as_api_error(error)
        request.state.seen.code = found.code
        return Response(found.body, found.status, found.headers)

    for kind in (
        ApiError, UnknownVideoError, NotReadyError, OverQuotaError, QueueFullError, RequestValidationError, ValueError,
        HTTPException, OSError, Exception,
    ):  # fmt: skip
        app.add_exception_handler(kind, answer)


def body(model: type[BaseModel], *kinds: str) -> dict[str, Any]:
    """The OpenAPI entry of a body that a route parses itself."""
    content = {kind: {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}} for kind in kinds}
    return {"requestBody": {"required": True, "content": content}}


def _add_videos(app: FastAPI) -> None:
    videos: Videos = app.state.videos
    both = body(schema.VideoOrder, "application/json", FORM)

    @app.post("/v1/videos", openapi_extra=both)
    async def create(request: Request, key: Maker) -> schema.Video:
        """Queue a new video. In a form, `input_reference` is a file, and `cues` may be JSON text."""
        order, picture = await _order_in(request)
        return await run_in_threadpool(videos.create, key, order, picture)

    @app.get("/v1/videos")
    def list_videos(
        key: Reader,
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=MOST_LISTED)] = 20,
        order: Literal["asc", "desc"] = "desc",
    ) -> schema.VideoList:
        """A page of videos, newest first; `after` is the last id of the page before."""
        return videos.page(key, after, limit, order == "desc")

    @app.get("/v1/videos/{video}")
    def retrieve(video: str, response: Response, key: Reader) -> schema.Video:
        """A video as of now."""
        response.headers[POLL_HEADER] = str(POLL_MS)
        return videos.get(key, video)

    @app.get("/v1/videos/{video}/content", response_class=FileResponse)
    def content(video: str, key: Reader, variant: Literal["video", "thumbnail", "spritesheet"] = "video") -> Response:
        """Once it has ended: the video (MP4; ranges work), a frame of it (JPEG) or its contact sheet (PNG)."""
        file = videos.file(key, video)
        if variant == "thumbnail":
            return Response(_thumbnail(file), media_type="image/jpeg")
        if variant == "spritesheet":
            file = file.with_name(CONTACT_SHEET)
            if not file.is_file():
                raise NotReadyError(f"{video} has no contact sheet")
        return FileResponse(file, filename=f"{video}{file.suffix}")

    @app.delete("/v1/videos/{video}")
    def delete(video: str, key: Maker) -> schema.Deleted:
        """Permanently delete a video that has ended."""
        videos.delete(key, video)
        return schema.Deleted(id=video)


def _add_commands(app: FastAPI) -> None:
    videos: Videos = app.state.videos

    @app.post("/v1/videos/{video}/remix", openapi_extra=body(schema.RemixOrder, "application/json"))
    async def remix(video: str, request: Request, key: Maker) -> schema.Video:
        """Queue the same video under another prompt, from its start or from a second on."""
        order = schema.RemixOrder.model_validate_json(await request.body())
        return await run_in_threadpool(videos.remix, key, video, order)

    @app.post("/v1/videos/{video}/extend", openapi_extra=body(schema.ExtendOrder, "application/json"))
    async def extend(video: str, request: Request, key: Maker) -> schema.Video:
        """Make a finished video longer; it keeps its id."""
        order = schema.ExtendOrder.model_validate_json(await request.body())
        return await run_in_threadpool(videos.extend, key, video, order)

    @app.post("/v1/videos/{video}/cancel")
    def cancel(video: str, key: Maker) -> schema.Video:
        """End a video after the block in progress; what was made is kept."""
        return videos.cancel(key, video)

    @app.post("/v1/videos/{video}/resume")
    def resume(video: str, key: Maker) -> schema.Video:
        """Queue the rest of a video that was cancelled or failed."""
        return videos.resume(key, video)


def _add_status(app: FastAPI, videos: Videos, metrics: Metrics) -> None:
    begun_at = videos.ledger.folder.stat().st_mtime
    models = [model_facts(name, preset, int(begun_at)) for name, preset in videos.setup.presets.items()]

    @app.get("/v1/models")
    def list_models(key: Reader) -> schema.ModelList:
        """Backbones, and the settings of a video with their defaults."""
        return schema.ModelList(data=models)

    @app.get("/v1/models/{model}")
    def retrieve_model(model: str, key: Reader) -> schema.Model:
        """A backbone."""
        found = next((each for each in models if each.id == model), None)
        if found is None:
            raise ApiError(404, "model_not_found", f"there is no model {model[:100]!r}", "model")
        return found

    # This and the next need no thread: all threads may be busy with orders.
    @app.get("/healthz")
    async def health() -> dict[str, str]:
        """The server answers."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def ready() -> dict[str, str]:
        """The server accepts orders: the last server's videos are queued, and it isn't stopping."""
        if not videos.making.is_ready:
            raise ApiError(503, "not_ready", "the server is starting or stopping", retry_s=1.0)
        return {"status": "ready"}

    @app.get("/metrics", response_class=Response)
    def look(key: Admin) -> Response:
        """Metrics, in Prometheus' format."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        return HTMLResponse(docs_page(app.openapi()))


def model_facts(name: str, preset: Preset, created: int) -> schema.Model:
    """A backbone's description for clients."""
    output, (width, height) = preset.output, size_step(preset)
    return schema.Model(
        id=name,
        created=created,
        size=f"{output.width * output.upscale}x{output.height * output.upscale}",
        size_step=f"{width}x{height}",
        fps=output.fps,
        seconds_a_block=preset.context.frames_per_block * preset.temporal_factor / output.fps,
        settings=[
            schema.SettingFacts(key=key, help=knob.help, default=getattr(getattr(preset, each.part), knob.name))
            for key, each in OFFERED.items()
            for knob in [each.knob]
        ],
    )


async def _order_in(request: Request) -> tuple[schema.VideoOrder, bytes | None]:
    """The order in a request for a new video, and the picture that came with it."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    picture = None
    if kind == FORM:
        async with request.form(max_files=1, max_fields=MAX_FORM_FIELDS, max_part_size=MAX_FIELD_BYTES) as form:
            items = form.multi_items()
            for name, value in items:
                if isinstance(value, UploadFile):
                    if name != "input_reference":
                        raise FieldError(name[:64], None, "only input_reference is a file", claim="it is a file")
                    picture = await value.read()
            fields = [(name, value) for name, value in items if isinstance(value, str)]
        order = schema.VideoOrder.model_validate(order_of_form(fields))
    elif kind in ("application/json", ""):
        order = schema.VideoOrder.model_validate_json(await request.body())
    else:
        raise ApiError(415, "unsupported_media_type", f"send application/json or {FORM}")
    if order.input_reference is not None and picture is None:
        picture = picture_in(order.input_reference)
    return order, picture


def _thumbnail(file: Path) -> bytes:
    """A frame from the middle of a video, as JPEG."""
    from PIL import Image

    from longlive_rag.media.video import count_frames, read_frame

    picture = Image.fromarray(read_frame(file, count_frames(file) // 2))
    picture.thumbnail((THUMBNAIL_WIDTH, THUMBNAIL_WIDTH))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
