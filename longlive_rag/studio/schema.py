"""Every message between server and page, typed; `python -m longlive_rag.studio.schema` prints the JSON Schema."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter
from pydantic.json_schema import models_json_schema

PROTOCOL = 1


def is_seed(value: object) -> bool:
    """Whether a value is a text of as many digits as a seed can have."""
    return isinstance(value, str) and re.fullmatch("[0-9]{1,20}", value) is not None


Words = Annotated[str, Field(max_length=4000)]
Id = Annotated[str, Field(max_length=64)]
Seed = Annotated[int, BeforeValidator(lambda seed: int(seed) if is_seed(seed) else seed)]
"""Also as a text of digits: JavaScript's numbers are exact up to 2**53 only, seeds go up to 2**64."""
Second = Annotated[float, Field(ge=0, le=10**6)]
Status = Literal["running", "live", "finished", "interrupted", "failed"]
ExportKind = Literal["video", "stills", "cues", "sheet", "otio", "otio_branch", "rights"]


class Message(BaseModel):
    """A part of the protocol: no keys but its own, no text for numbers."""

    model_config = ConfigDict(extra="forbid", strict=True)


# ---- what the server says ----


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
    """The body of every answer that is an error."""

    error: Problem


class Secret(Message):
    """Of a session."""

    secret: str


class KnobFacts(Message):
    """A setting of a new take; `default` is that of the backbone."""

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
    """What can judge drift here; not independent: what made the take. `tiny-world` reads takes of tiny-world only."""

    name: str
    independent: bool


class StudioFacts(Message):
    """What there is."""

    protocol: int = PROTOCOL
    version: str
    takes_folder: str
    backbones: list[BackboneFacts]
    policies: list[str]
    embedders: list[EmbedderFacts]
    live: Id | None


class RightsLabels(Message):
    """Under which policy a take was made, and what it is labelled as."""

    license_policy: str
    label: str


class TakeFacts(Message):
    """A take in the library; `waiting` is a live one that begins with the next direction or `resume`.

    A branch has `parent_block` blocks, or `parent_seconds`, in common with its parent.
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


class TakeList(Message):
    """The library."""

    takes: list[TakeFacts]


class CueFacts(Message):
    """A prompt that takes over, or begins another shot; one with a `planned_id` can still be edited and withdrawn."""

    number: int | None
    seconds: float
    prompt: str
    cut: bool
    reached: bool
    planned_id: str | None


class SteeringFacts(Message):
    """What memory was told, and from which second on; `policy` for the verb of that name."""

    seconds: float
    verb: str
    start: float
    end: float
    policy: str | None = None


class SegmentFacts(Message):
    """A block as a file; `key`: can be decoded without those before it."""

    block: int
    first_frame: int
    frames: int
    seconds: float
    key: bool
    url: str


class RememberedFrame(Message):
    """A past frame that was brought back; of another take, its id and its own numbers."""

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
    """All of a take."""

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
    """Cosine to the first second, by second; D by horizon. Not independent: an embedder that made the take."""

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
    """A picture that was taken in."""

    id: Id
    width: int
    height: int


class TakeId(Message):
    """The take that goes on."""

    id: Id


class Directed(Message):
    """When a direction takes over."""

    takes_over_at: float
    planned_id: str | None


class Done(Message):
    """A command without an answer of its own."""

    ok: bool = True


class UnknownWords(Message):
    """Words of a prompt that a backbone has never read."""

    unknown_words: list[str]


# ---- what the page says ----


class TokenMessage(Message):
    """Exchanged for a secret."""

    token: Annotated[str, Field(max_length=200)]


class PromptMessage(Message):
    """Words to look at."""

    prompt: Words


class RememberMessage(Message):
    """Seconds of another take."""

    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True)

    take: Id
    start: Annotated[Second, Field(alias="from")]
    end: Annotated[Second, Field(alias="to")]


class CueMessage(Message):
    """A prompt that takes over from the start on the plan; at a cut another shot begins with it."""

    seconds: Second
    prompt: Words
    cut: bool = False


class NewTakeMessage(Message):
    """A take to be begun."""

    prompt: Words
    seconds: Second
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
    do: Literal["stop", "resume", "native_twin", "take_over"]


Command = Annotated[
    Direct | EditCue | WithdrawCue | Steer | UsePolicy | UndoTo | BranchAt | Extend | Pace | Plain,
    Field(discriminator="do"),
]


class ExportMessage(Message):
    """What of a take is to be downloaded; left out, the whole of it."""

    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True)

    what: ExportKind
    start: Annotated[Second, Field(alias="from")] = 0.0
    end: Annotated[Second | None, Field(alias="to")] = None


# ---- events ----


class Hello(Message):
    type: Literal["hello"] = "hello"
    live: Id | None


class Stats(Message):
    """Of a live take: frames a second end to end, what is made, bytes of pages and of the process (or the GPU)."""

    fps: float
    made_seconds: float
    pages_bytes: int
    memory_bytes: int


class BlockEvent(Message):
    """A block can be fetched."""

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


class GoneEvent(Message):
    """A take isn't on the disk any more."""

    type: Literal["gone"] = "gone"
    take: Id


class CuesEvent(Message):
    type: Literal["cues"] = "cues"
    take: Id
    cues: list[CueFacts]


class SteeringEvent(Message):
    """All that memory was told."""

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
    Hello | BlockEvent | CutEvent | TakeEvent | GoneEvent | CuesEvent | SteeringEvent | NoteEvent | ErrorEvent,
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
    """What is said in both directions where it isn't the body of one route."""

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
