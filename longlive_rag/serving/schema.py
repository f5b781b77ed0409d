"""Typed messages of the video API: OpenAI's, with additions for what takes can do."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter

from longlive_rag.config import MAX_SECONDS

Status = Literal["queued", "in_progress", "completed", "failed"]


def _text(words: str) -> str:
    """Refuse half a surrogate pair, which JSON can spell but text can't contain."""
    words.encode()
    return words


Words = Annotated[str, Field(max_length=4000), AfterValidator(_text)]
Id = Annotated[str, Field(max_length=64)]
Second = Annotated[float, Field(ge=0, le=MAX_SECONDS, allow_inf_nan=False)]
Size = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,4}x[1-9][0-9]{0,4}$", examples=["384x384"])]


class Message(BaseModel):
    """Base of all messages: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)


# ---- from the client ----


class Cue(Message):
    """A prompt and the second at which it takes over; `cut` begins another shot."""

    seconds: Second
    prompt: Words
    cut: bool = False


class Remember(Message):
    """Seconds of another video, remembered from the start."""

    video: Id
    start: Annotated[Second, Field(alias="from")]
    end: Annotated[Second, Field(alias="to")]


class TakeOrder(Message):
    """A new video. `settings` are knobs of a take by name; `GET /v1/models` lists them."""

    prompt: Words
    model: Annotated[str, Field(max_length=200)] | None = None
    seconds: Second = 4.0
    size: Size | None = None
    seed: Annotated[int, Field(ge=0, lt=2**64)] = 0
    cues: Annotated[list[Cue], Field(max_length=1000)] = []
    memory: bool | None = None
    remember: Annotated[list[Remember], Field(max_length=100)] = []
    settings: dict[str, Any] = {}


class ImageReference(Message):
    """A picture inside the message: `data:image/png;base64,...`."""

    image_url: str


class VideoOrder(TakeOrder):
    """A new video; `input_reference` becomes its first frame."""

    input_reference: ImageReference | None = None


class RemixOrder(Message):
    """The same video under another prompt: from its start, or from second `at` on."""

    prompt: Words
    at: Second = 0.0
    seconds: Second | None = None


class ExtendOrder(Message):
    """The same video, longer; `prompt` takes over at its old end, and `cut` begins another shot there."""

    seconds: Annotated[Second, Field(gt=0)]
    prompt: Words | None = None
    cut: bool = False


# ---- from the server ----


class VideoError(Message):
    """Why a video failed."""

    code: str
    message: str


class Video(Message):
    """A video: OpenAI's fields, then additional ones.

    `seconds` is text, as in OpenAI's API; times are Unix seconds. `place` is its place in the queue, from 0.
    """

    id: str
    object: Literal["video"] = "video"
    model: str
    status: Status
    progress: Annotated[int, Field(ge=0, le=100)]
    created_at: int
    completed_at: int | None = None
    expires_at: int | None = None
    seconds: str
    size: str
    prompt: str
    remixed_from_video_id: str | None = None
    error: VideoError | None = None
    seed: int
    seconds_made: float
    place: int | None = None
    restarts: int = 0


class VideoList(Message):
    """A page of videos."""

    object: Literal["list"] = "list"
    data: list[Video]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Deleted(Message):
    """A video was deleted."""

    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: bool = True


class SettingFacts(Message):
    """A setting of a new video, and the model's default."""

    key: str
    help: str
    default: Any


class Model(Message):
    """A backbone; `size` and `fps` are its defaults, and both sides of a size are multiples of `size_step`."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "longlive-rag"
    size: str
    size_step: str
    fps: int
    seconds_a_block: float
    settings: list[SettingFacts]


class ModelList(Message):
    """All backbones; the first is the default."""

    object: Literal["list"] = "list"
    data: list[Model]


class Problem(Message):
    """What is wrong; `param` is the field, and `code` a name that programs can rely on."""

    message: str
    type: str
    param: str | None = None
    code: str


class ErrorAnswer(Message):
    """The body of every error response."""

    error: Problem


# ---- the realtime socket ----


class Start(TakeOrder):
    """Make a new video while the client watches; `on_leave` is what happens if the client leaves."""

    type: Literal["start"]
    on_leave: Literal["finish", "stop"] = "finish"


class Attach(Message):
    """Follow an existing video, from a block on."""

    type: Literal["attach"]
    id: Id
    from_block: Annotated[int, Field(ge=0)] = 0


class Prompt(Message):
    """Another prompt takes over at the next block, or at a second."""

    type: Literal["prompt"]
    prompt: Words
    at: Second | None = None
    cut: bool = False


class Steer(Message):
    """Memory brings a span back first (`pin`), or not at all (`exclude`); `unpin` and `unexclude` undo that."""

    type: Literal["pin", "unpin", "exclude", "unexclude"]
    start: Annotated[Second, Field(alias="from")]
    end: Annotated[Second, Field(alias="to")]


class UsePolicy(Message):
    """Another policy picks what memory brings back."""

    type: Literal["policy"]
    name: Annotated[str, Field(max_length=200)]


class Stop(Message):
    """The video ends with the block in progress."""

    type: Literal["stop"]


FromClient = Annotated[Start | Attach | Prompt | Steer | UsePolicy | Stop, Field(discriminator="type")]
FROM_CLIENT: TypeAdapter[Any] = TypeAdapter(FromClient)


class Started(Message):
    """The video that this socket follows."""

    type: Literal["started"] = "started"
    video: Video


class State(Message):
    """The video's status or its place in the queue changed."""

    type: Literal["state"] = "state"
    video: Video


class Init(Message):
    """The next binary message is the head of the stream, of `bytes` bytes."""

    type: Literal["init"] = "init"
    mime: str
    fps: int
    bytes: int


class Block(Message):
    """The next binary message is a block; with `key`, it can be decoded without those before it."""

    type: Literal["block"] = "block"
    block: int
    first_frame: int
    frames: int
    seconds: float
    key: bool
    bytes: int


class Directed(Message):
    """The second at which a direction takes effect."""

    type: Literal["directed"] = "directed"
    takes_over_at: float


class Ended(Message):
    """The video has ended; nothing more comes."""

    type: Literal["ended"] = "ended"
    video: Video


class Refused(Message):
    """A message could not be carried out; the socket stays open."""

    type: Literal["error"] = "error"
    error: Problem
