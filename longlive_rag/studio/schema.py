"""Typed messages between server and page; `python -m longlive_rag.studio.schema` prints their JSON Schema."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, WithJsonSchema
from pydantic.json_schema import models_json_schema

PROTOCOL = 1


def as_seed(value: object) -> object:
    """Convert a text of as many digits as a seed can have to a number; return anything else unchanged."""
    return int(value) if isinstance(value, str) and re.fullmatch("[0-9]{1,20}", value) else value


def as_text(value: object) -> object:
    """Convert a number to text; return anything else unchanged."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Words = Annotated[str, Field(max_length=4000)]
Id = Annotated[str, Field(max_length=64)]
Seed = Annotated[int, BeforeValidator(as_seed)]
"""Also accepted as text: JavaScript's numbers are exact only up to 2**53, and seeds go up to 2**64."""
Second = Annotated[float, Field(ge=0, le=10**6)]
Length = Annotated[
    str, BeforeValidator(as_text), Field(max_length=64), WithJsonSchema({"type": ["number", "string"]}, "validation")
]
"""Seconds or a timecode, as the command line takes them."""
Status = Literal["running", "live", "finished", "interrupted", "failed"]
ExportKind = Literal["video", "stills", "cues", "sheet", "otio", "otio_branch", "rights"]


class Message(BaseModel):
    """Base of all messages: unknown keys and text for numbers are refused."""

    model_config = ConfigDict(extra="forbid", strict=True)


# ---- from the server ----


class FieldProblem(Message):
    """What is wrong with a field."""

    field: str
    value: Any
    wanted: str
    message: str


class Problem(Message):
    """One sentence, and the fields that it is about."""

    message: str
    fields: list[FieldProblem] = []


class ErrorAnswer(Message):
    """The body of every error response."""

    error: Problem


class Secret(Message):
    """A session's secret."""

    secret: str


class KnobFacts(Message):
    """A setting of a new take, and the backbone's default."""

    key: str
    part: str
    name: str
    flag: str
    help: str
    type: Literal["int", "float", "bool", "text", "choice", "span", "spans", "texts", "steps"]
    choices: list[str] | None
    default: Any
    at_least: float | None
    above: float | None
    at_most: float | None
    below: float | None
    unit: str | None


class BackboneFacts(Message):
    """A backbone that takes can be made with."""

    name: str
    default: bool
    width: int
    height: int
    fps: int
    seconds_a_block: float
    settings: list[KnobFacts]


class EmbedderFacts(Message):
    """An embedder for drift; not independent if it made the take. `tiny-world` judges only its own takes."""

    name: str
    independent: bool


class StudioFacts(Message):
    """What the studio offers, and the live take."""

    protocol: int = PROTOCOL
    version: str
    takes_folder: str
    backbones: list[BackboneFacts]
    policies: list[str]
    embedders: list[EmbedderFacts]
    live: Id | None


class RightsLabels(Message):
    """The licence policy that a take was made under, and its label."""

    license_policy: str
    label: str


class TakeFacts(Message):
    """A take in the library; with `waiting`, a live one that begins with the next direction or `resume`.

    A branch shares `parent_block` blocks, or `parent_seconds`, with its parent.
    """

    id: Id
    name: str
    status: Status
    waiting: bool = False
    prompt: str
    seconds: float
    made_seconds: float
    frames: int
    fps: int
    width: int
    height: int
    backbone: str
    seed: str
    started: str
    parent: Id | None
    parent_block: int | None
    parent_seconds: float | None
    blocks: int
    labels: RightsLabels | None
    unknown_words: list[str]


class LeftOut(Message):
    """A take that can't be opened, and why, in the words of `longlive-rag library`."""

    id: Id
    name: str
    reason: str


class TakeList(Message):
    """The library."""

    takes: list[TakeFacts]
    left_out: list[LeftOut] = []


class CueFacts(Message):
    """A prompt that takes over, or begins another shot; one with a `planned_id` can still be edited and withdrawn."""

    number: int | None
    seconds: float
    prompt: str
    cut: bool
    reached: bool
    planned_id: str | None


class SteeringFacts(Message):
    """A direction to memory, and the second at which it takes effect; `policy` is for the verb of that name."""

    seconds: float
    verb: str
    start: float
    end: float
    policy: str | None = None


class SegmentFacts(Message):
    """A block as a file; with `key`, it can be decoded without those before it."""

    block: int
    first_frame: int
    frames: int
    seconds: float
    key: bool
    url: str


class RememberedFrame(Message):
    """A past frame that was brought back; if it is another take's, that take's id and numbers."""

    latent_frame: int
    frame: int | None
    seconds: float | None
    similarity: float
    take: Id | None


class BlockMemory(Message):
    """What a block remembered, and by which policy."""

    block: int
    seconds: float
    policy: str
    remembered: list[RememberedFrame]


class TakeDetail(TakeFacts):
    """Everything about a take."""

    mime: str
    request: dict[str, Any]
    cues: list[CueFacts]
    steering: list[SteeringFacts]
    segments: list[SegmentFacts]
    memory: list[BlockMemory]
    admitted: list[tuple[int, int]] | None
    history: list[dict[str, Any]]
    command: str
    python: str


class DriftFacts(Message):
    """Cosine to the first second, by second; D by horizon. An embedder that made the take isn't independent."""

    embedder: str
    label: str
    independent: bool
    seconds: list[float]
    values: list[float | None]
    D: dict[str, float | None]


class FrameHit(Message):
    """A moment of a take."""

    take: Id
    frame: int
    seconds: float
    similarity: float


class FrameHits(Message):
    """Moments that look like a frame, best first."""

    hits: list[FrameHit]


class UploadFacts(Message):
    """A picture that was uploaded."""

    id: Id
    width: int
    height: int


class TakeId(Message):
    """The take that is made now."""

    id: Id


class Directed(Message):
    """The second at which a direction takes effect."""

    takes_over_at: float
    planned_id: str | None


class Done(Message):
    """The answer to a command that has no other."""

    ok: bool = True


class UnknownWords(Message):
    """Words of a prompt that a backbone has never read."""

    unknown_words: list[str]


# ---- from the page ----


class TokenMessage(Message):
    """The token, to be exchanged for a secret."""

    token: Annotated[str, Field(max_length=200)]


class PromptMessage(Message):
    """A prompt to check for unknown words."""

    prompt: Words


class RememberMessage(Message):
    """Seconds of another take to remember."""

    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True)

    take: Id
    start: Annotated[Second, Field(alias="from")]
    end: Annotated[Second, Field(alias="to")]


class CueMessage(Message):
    """A prompt that is planned from the start; with `cut`, another shot begins with it."""

    seconds: Second
    prompt: Words
    cut: bool = False


class NewTakeMessage(Message):
    """A new take."""

    prompt: Words
    seconds: Length
    seed: Seed = 0
    backbone: str | None = None
    memory: bool | None = None
    start_image: Id | None = None
    cues: list[CueMessage] = []
    remember: list[RememberMessage] = []
    settings: dict[str, Any] = {}


class Direct(Message):
    do: Literal["direct"]
    prompt: Words
    at: Second | None = None
    cut: bool = False


class EditCue(Message):
    do: Literal["edit_cue"]
    planned_id: Id
    prompt: Words
    at: Second | None = None
    cut: bool | None = None


class WithdrawCue(Message):
    do: Literal["withdraw_cue"]
    planned_id: Id


class Steer(Message):
    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True)

    do: Literal["pin", "unpin", "exclude", "unexclude"]
    start: Annotated[Second, Field(alias="from")]
    end: Annotated[Second, Field(alias="to")]


class UsePolicy(Message):
    do: Literal["policy"]
    name: str


class UndoTo(Message):
    do: Literal["undo_to"]
    block: int


class BranchAt(Message):
    do: Literal["branch"]
    block: int
    prompt: Words | None = None
    seed: Seed | None = None
    cut: bool = False


class Extend(Message):
    do: Literal["extend"]
    seconds: Second
    prompt: Words | None = None
    cut: bool = False


class Pace(Message):
    do: Literal["pace"]
    blocks_ahead: Annotated[int, Field(ge=1, le=10000)] | None


class Plain(Message):
    do: Literal["stop", "resume", "native_twin", "take_over", "delete"]


Command = Annotated[
    Direct | EditCue | WithdrawCue | Steer | UsePolicy | UndoTo | BranchAt | Extend | Pace | Plain,
    Field(discriminator="do"),
]


class ExportMessage(Message):
    """The part of a take to download; without a range, all of it."""

    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True)

    what: ExportKind
    start: Annotated[Second, Field(alias="from")] = 0.0
    end: Annotated[Second | None, Field(alias="to")] = None


# ---- events ----


class Hello(Message):
    type: Literal["hello"] = "hello"
    live: Id | None


class Stats(Message):
    """A live take's frames a second end to end, seconds made, and bytes of its pages and its process (or GPU)."""

    fps: float
    made_seconds: float
    pages_bytes: int
    memory_bytes: int


class BlockEvent(Message):
    """A block was made and can be fetched."""

    type: Literal["block"] = "block"
    take: Id
    segment: SegmentFacts
    memory: BlockMemory | None
    entered: list[int]
    prompt: str
    cue: int | None
    stats: Stats


class CutEvent(Message):
    """Segments from a block on are void."""

    type: Literal["cut"] = "cut"
    take: Id
    blocks: int


class TakeEvent(Message):
    type: Literal["take"] = "take"
    take: TakeFacts


class LeftOutEvent(Message):
    type: Literal["left_out"] = "left_out"
    take: LeftOut


class GoneEvent(Message):
    """A take is no longer on disk, or was deleted here."""

    type: Literal["gone"] = "gone"
    take: Id
    deleted: bool = False


class CuesEvent(Message):
    type: Literal["cues"] = "cues"
    take: Id
    cues: list[CueFacts]


class SteeringEvent(Message):
    """All directions that memory was given."""

    type: Literal["steering"] = "steering"
    take: Id
    steering: list[SteeringFacts]


class NoteEvent(Message):
    type: Literal["note"] = "note"
    take: Id | None
    message: str


class ErrorEvent(Message):
    type: Literal["error"] = "error"
    take: Id | None
    message: str


Event = Annotated[
    Hello
    | BlockEvent
    | CutEvent
    | TakeEvent
    | LeftOutEvent
    | GoneEvent
    | CuesEvent
    | SteeringEvent
    | NoteEvent
    | ErrorEvent,
    Field(discriminator="type"),
]


class Playhead(Message):
    type: Literal["playhead"]
    take: Id
    seconds: Second


class Watch(Message):
    type: Literal["watch", "direct_lock"]
    take: Id


FromPage = Annotated[Playhead | Watch, Field(discriminator="type")]


class Protocol(Message):
    """Messages that aren't the body of one route."""

    command: Command
    event: Event
    from_page: FromPage


COMMANDS: TypeAdapter[Any] = TypeAdapter(Command)
FROM_PAGE: TypeAdapter[Any] = TypeAdapter(FromPage)
BODIES = (
    ErrorAnswer, Secret, StudioFacts, TakeList, TakeDetail, DriftFacts, FrameHits, UploadFacts, TakeId, Directed, Done,
    UnknownWords, TokenMessage, PromptMessage, NewTakeMessage, ExportMessage, Protocol,
)  # fmt: skip


def json_schema() -> dict[str, Any]:
    """All messages, under `$defs`."""
    return models_json_schema([(model, "validation") for model in BODIES], title="longlive-rag studio")[1]


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=2))
