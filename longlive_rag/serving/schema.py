"""Every message of the video API, typed: those of OpenAI's, and what takes can do besides."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter

from longlive_rag.config import MAX_SECONDS

Status = Literal["queued", "in_progress", "completed", "failed"]


def _text(words: str) -> str:
    """Refuse half of a character, which JSON can spell and no text has."""
    words.encode()
    return words


Words = Annotated[str, Field(max_length=4000), AfterValidator(_text)]
Id = Annotated[str, Field(max_length=64)]
Second = Annotated[float, Field(ge=0, le=MAX_SECONDS, allow_inf_nan=False)]
Size = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,4}x[1-9][0-9]{0,4}$", examples=["384x384"])]


class Message(BaseModel):
    """A part of the API: no keys but its own."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)


# ---- what a client says ----


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
    """What a new video shows. `settings` are the knobs of a take by name; `GET /v1/models` lists them."""

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
    """The same video under another prompt: from its start, or from second `at` on, which it then shares until there."""

    prompt: Words
    at: Second = 0.0
    seconds: Second | None = None


class ExtendOrder(Message):
    """The same video, longer; `prompt` takes over at its old end, and `cut` begins another shot there."""

    seconds: Annotated[Second, Field(gt=0)]
    prompt: Words | None = None
    cut: bool = False


# ---- what the server says ----


class VideoError(Message):
    """Why a video is not there."""

    code: str
    message: str


class Video(Message):
    """A video: OpenAI's object, then where it stands.

    `seconds` is as text, as theirs is; times are Unix seconds. `place` is its place in the queue, from 0.
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
    """A video is gone."""

    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: bool = True


class SettingFacts(Message):
    """A knob of a new video, and the model's default."""

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
    """What is wrong, with which field, and a name for it that programs can rely on."""

    message: str
    type: str
    param: str | None = None
    code: str


class ErrorAnswer(Message):
    """The body of every answer that is an error."""

    error: Problem


# ---- the realtime socket ----


class Start(TakeOrder):
    """A new video, made while its client listens; what becomes of it if the client leaves."""

    type: Literal["start"]
    on_leave: Literal["finish", "stop"] = "finish"


class Attach(Message):
    """Listen to a video that is there, from a block on."""

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
    """Memory brings a span back first, or not at all; `un` takes that back."""

    type: Literal["pin", "unpin", "exclude", "unexclude"]
    start: Annotated[Second, Field(alias="from")]
    end: Annotated[Second, Field(alias="to")]


class UsePolicy(Message):
    """Another policy picks what memory brings back."""

    type: Literal["policy"]
    name: Annotated[str, Field(max_length=200)]


class Stop(Message):
    """The video ends with the block that is being made."""

    type: Literal["stop"]


FromClient = Annotated[Start | Attach | Prompt | Steer | UsePolicy | Stop, Field(discriminator="type")]
FROM_CLIENT: TypeAdapter[Any] = TypeAdapter(FromClient)


class Started(Message):
    """Which video this socket is about."""

    type: Literal["started"] = "started"
    video: Video


class State(Message):
    """It is in another state, or at another place in the queue."""

    type: Literal["state"] = "state"
    video: Video


class Init(Message):
    """The next binary message is the head of the stream, of `bytes` bytes."""

    type: Literal["init"] = "init"
    mime: str
    fps: int
    bytes: int


class Block(Message):
    """The next binary message is a block; `key`: it can be decoded without those before it."""

    type: Literal["block"] = "block"
    block: int
    first_frame: int
    frames: int
    seconds: float
    key: bool
    bytes: int


class Directed(Message):
    """When a direction takes over."""

    type: Literal["directed"] = "directed"
    takes_over_at: float


class Ended(Message):
    """Nothing more comes."""

    type: Literal["ended"] = "ended"
    video: Video


class Refused(Message):
    """A message that could not be done; the socket stays open."""

    type: Literal["error"] = "error"
    error: Problem
