"""The plan of a comparison (arms x stories x seeds), fixed before anything is made and stored with the results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from backbone.config import ContextConfig, SamplerConfig
from backbone.errors import FieldError, Name
from backbone.knobs import knobs_of
from eval.embedders import parse_embedders
from eval.measure import MeasureSettings
from eval.metrics import metrics_named
from eval.oracle import open_oracle
from eval.retrieval_controls import BY_ORACLE, SIMILAR, Retrieval, check_retrieval
from eval.scenarios import Story, check_folder_name
from eval.statistics import prompts_for_a_claim
from eval.windows import DriftWindows
from longlive_rag.config import PARTS, Cue, MemoryConfig, OutputConfig, TakeRequest
from longlive_rag.documents import read_document, refuse_unknown
from longlive_rag.media.start_image import read_start_image
from longlive_rag.presets.geometry import backbone_id
from longlive_rag.presets.preset import Preset, load_preset
from longlive_rag.sessions.opening import Codec, Decoder, DType, Opening, check_decoder_fits
from longlive_rag.takes.folder import check_folder_writable
from retrieval.files import write_json
from retrieval.lock import LOCK, check_free

PLAN = "plan.json"
MAX_SEEDS = 10_000
OF_THE_SEARCH = {name for name, knob in knobs_of(MemoryConfig).items() if knob.of_search}
WORDS = "about"  # affects neither takes nor claims


@dataclass(frozen=True)
class Arm:
    """One way of making takes.

    Attributes:
        name: short name, usable as a folder name.
        changes: changes to the backbone's preset: part (context, sampler, memory, output) to field to value.
        retrieval: how memory chooses frames: `similar` is the arm's own policy; others are controls and ceilings
            (`eval.retrieval_controls`).
    """

    name: str
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    retrieval: Retrieval = SIMILAR

    def __post_init__(self) -> None:
        check_folder_name("arm", self.name)
        where = f"changes of arm {self.name!r}"
        refuse_unknown(self.changes, PARTS, where)
        for part, changes in self.changes.items():
            refuse_unknown(changes, [each.name for each in fields(PARTS[part])], f"{where}, {part}")
        try:
            check_retrieval(self.retrieval)
        except ValueError as error:
            raise ValueError(f"arm {self.name!r}: {error}") from error


ARMS: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm("native", {"memory": {"enabled": False}}),
        Arm("memory", {"memory": {"enabled": True}}),
        Arm("memory-random", {"memory": {"enabled": True}}, "random"),
        Arm("memory-recent", {"memory": {"enabled": True}}, "recent"),
        Arm("memory-empty", {"memory": {"enabled": True}}, "nothing"),
    )
}


@dataclass(frozen=True)
class Contrast:
    """Two arms to compare; differences are `arm` minus `against`.

    Attributes:
        arm, against: names of the arms.
        confirmatory: whether claims may be made about it.
    """

    arm: str
    against: str
    confirmatory: bool = False


@dataclass(frozen=True)
class Cell:
    """One take of a comparison."""

    arm: Arm
    story: Story
    seed: int

    @property
    def name(self) -> str:
        """Path of the take below the run's `takes`."""
        return f"{self.arm.name}/{self.story.id}-seed{self.seed}"


@dataclass(frozen=True)
class PresetSettings:
    """What the backbone's preset said when a comparison was planned; arms change it."""

    context: ContextConfig
    sampler: SamplerConfig
    memory: MemoryConfig
    output: OutputConfig


@dataclass(frozen=True)
class Plan:
    """A whole comparison, and the content of its `plan.json`.

    Attributes:
        format: format version of the file.
        backbone: name of a preset, or a pipeline folder.
        arms: the baseline first, then the arm the claim is about, then others.
        stories: the prompts, in their scenarios.
        seeds: number of seeds, from 0 up.
        horizons_s: seconds at which drift is measured; a take is as long as the last.
        embedders: embedders as on the command line; the first is the primary one.
        embed_every: embed every n-th frame.
        dtype, device, codec, decoder: as for `generate`.
        about: what happens in each scenario, in words.
        metrics: names of metrics besides those that are always measured.
        contrasts: pairs of arms to compare besides every arm with the baseline and the second arm with each of the
            others, and what may be claimed; by default, the claim is about the second arm against the baseline.
        exploratory: no claims are made, so there may be fewer prompts than a claim needs.
        backbone_id: the weights that the backbone's name stood for; None if not checked.
        preset: what the backbone's preset said then, so that the same takes are made once it says something else; None
            for what it says now.

    Raises:
        ValueError: if it is invalid; says what is expected.
    """

    FORMAT: ClassVar[int] = 1
    format: Literal[1] = field(default=1, kw_only=True)
    backbone: str
    arms: tuple[Arm, ...]
    stories: tuple[Story, ...]
    seeds: int
    horizons_s: tuple[float, ...]
    embedders: str
    embed_every: int = 1
    dtype: DType = "float32"
    device: str = "auto"
    codec: Codec = "vp9"
    about: Mapping[str, str] = field(default_factory=dict)
    metrics: tuple[str, ...] = ()
    contrasts: tuple[Contrast, ...] = ()
    exploratory: bool = False
    backbone_id: str | None = field(default=None, compare=False)
    decoder: Decoder = "full"
    preset: PresetSettings | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not 1 <= self.seeds <= MAX_SEEDS:
            raise FieldError("seeds", self.seeds, f"it must be from 1 to {MAX_SEEDS}")
        names = [arm.name for arm in self.arms]
        if len(self.arms) < 2:
            wanted = "it must be two or more, the baseline first: native,memory"
            raise FieldError("arms", names, wanted, ",".join(names))
        if len(set(names)) < len(names):
            raise FieldError("arms", names, "each can be used only once", ",".join(names))
        for contrast in self.contrasts:
            for name in (contrast.arm, contrast.against):
                if name not in names:
                    raise FieldError("contrasts", name, f"it must be one of {', '.join(names)}")
            if contrast.arm == contrast.against:
                raise FieldError("contrasts", contrast.arm, "compare it with another arm")
        if not self.stories:
            raise FieldError("stories", self.stories, "a comparison needs one prompt or more", "empty")
        ids = [story.id for story in self.stories]
        if len(set(ids)) < len(ids):
            raise ValueError("two prompts have the same id")
        told = [(story.scenario, story.prompts) for story in self.stories]
        for each in told:
            if told.count(each) > 1:
                raise ValueError(f"the prompt {each[1][0][1]!r} occurs twice, and would count as two")
        for story in self.stories:
            settings = self.measure_settings(story)
            settings.windows.check(self.horizons_s, self.seconds, 0.0, f"a take of story {story.id}")
        parse_embedders(self.embedders)
        metrics_named(self.metrics)

    @property
    def seconds(self) -> float:
        """Length of every take."""
        return self.horizons_s[-1]

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All takes, with all arms of one prompt and seed together."""
        return tuple(
            Cell(arm, story, seed) for story in self.stories for seed in range(self.seeds) for arm in self.arms
        )

    @property
    def scenarios(self) -> tuple[str, ...]:
        """Names of the scenarios, in order."""
        return tuple(dict.fromkeys(story.scenario for story in self.stories))

    @property
    def all_contrasts(self) -> tuple[Contrast, ...]:
        """Every arm against the baseline, the second against each of the others, then `contrasts`, without repeats."""
        base, claimed, *others = (arm.name for arm in self.arms)
        declared = {(each.arm, each.against): each.confirmatory for each in self.contrasts}
        if not any(declared.values()):
            declared[claimed, base] = True
        pairs = [(arm, base) for arm in (claimed, *others)] + [(claimed, other) for other in others]
        return tuple(Contrast(*pair, declared.get(pair, False)) for pair in dict.fromkeys([*pairs, *declared]))

    @property
    def tests(self) -> int:
        """Number of confirmatory tests: drift by the primary embedder, at every horizon of every scenario."""
        claims = sum(each.confirmatory for each in self.all_contrasts)
        return claims * len(self.scenarios) * len(self.horizons_s)

    def measure_settings(self, story: Story) -> MeasureSettings:
        """What to measure of a take of `story`."""
        windows = DriftWindows(story.origin_s)
        return MeasureSettings(
            self.horizons_s, windows, self.embed_every, story.prompts, metrics=self.metrics,
            rival_origin_s=story.rival_origin_s,
        )  # fmt: skip

    def request(self, preset: Preset, cell: Cell) -> TakeRequest:
        """Build the request for one take.

        Raises:
            ValueError: if it is invalid; names the arm, the field, the value and what is expected.
        """
        settings = self.preset or preset
        changes = {part: dict(fields) for part, fields in cell.arm.changes.items()}
        if not changes.get("memory", {}).get("enabled", settings.memory.enabled):
            changes.setdefault("context", {})["memory_frames"] = 0
        if cell.arm.retrieval != SIMILAR:  # these choose from the whole past
            changes.setdefault("memory", {}).setdefault("establish", 0.0)
        try:
            parts: dict[str, Any] = {part: replace(getattr(settings, part), **changes.get(part, {})) for part in PARTS}
            if parts["context"].memory_frames:
                parts["memory"] = replace(parts["memory"], steering=cell.story.steering)
            story = cell.story
            cues = tuple(Cue(second, prompt, second in story.cuts) for second, prompt in story.cues)
            return TakeRequest(story.prompt, self.seconds, cues, cell.seed, start_image=story.start_image, **parts)
        except (TypeError, ValueError) as error:
            where = f"arm {cell.arm.name!r}, prompt {cell.story.id}"
            if isinstance(error, FieldError):
                raise error.within(where) from error
            raise ValueError(f"{where}: {error}") from error

    def check(self, preset: Preset) -> None:
        """Check that everything can be made and compared, before any model is loaded.

        Raises:
            ValueError: if a request can't be met, or two arms would make the same takes.
        """
        check_decoder_fits(preset, Opening(decoder=self.decoder))
        made: dict[str, str] = {}
        rates: set[int] = set()
        for arm in self.arms:
            requests = [self.request(preset, Cell(arm, story, 0)) for story in self.stories]
            for story, asked in zip(self.stories, requests, strict=True):
                if story.start_image is not None:
                    read_start_image(Path(story.start_image), asked.output)
            request = requests[0]
            if arm.retrieval != SIMILAR and not request.context.memory_frames:
                raise ValueError(f"arm {arm.name!r} has retrieval {arm.retrieval!r}, but its memory is off")
            unread = sorted(set(arm.changes.get("memory", {})) & OF_THE_SEARCH)
            if arm.retrieval != SIMILAR and unread:
                raise ValueError(
                    f"arm {arm.name!r} has {', '.join(unread)}, which has no effect with retrieval {arm.retrieval!r}"
                )
            what = repr((request.context, request.sampler, request.memory, request.output, arm.retrieval))
            if what in made:
                raise ValueError(f"arms {made[what]!r} and {arm.name!r} have the same settings on this backbone")
            made[what] = arm.name
            rates.add(request.output.fps)
            if len(rates) > 1:
                low, high = sorted(rates)
                raise ValueError(f"arms differ in fps ({low} and {high}); a pair needs frames at the same times")
        self._check_oracle()
        self.measure_settings(self.stories[0]).check_rate(rates.pop(), "a take")
        for spec in parse_embedders(self.embedders):
            spec.check()
        self._check_claims()

    def _check_oracle(self) -> None:
        """If the oracle chooses frames, check that it recognises the characters in the prompts."""
        asked = [arm.name for arm in self.arms if arm.retrieval == BY_ORACLE]
        oracle = open_oracle() if asked else None
        for prompt in {prompt for story in self.stories for _, prompt in story.prompts} if oracle else ():
            if oracle and not oracle.characters_in(prompt):
                raise ValueError(
                    f"arm {asked[0]!r} has frames chosen by tiny-world's oracle, which finds no character in "
                    f"{prompt!r}; it needs prompts such as 'a red circle walks in a meadow'"
                )

    def _check_claims(self) -> None:
        if self.exploratory:
            return
        needed = prompts_for_a_claim(self.tests)
        for scenario in self.scenarios:
            count = sum(story.scenario == scenario for story in self.stories)
            if count < needed:
                tests = f"{self.tests} test" if self.tests == 1 else f"{self.tests} tests after Holm"
                shown = f"{count} for scenario {scenario}, too few to support any claim ({tests})"
                wanted = (f"give {needed} or more, or add ", Name("exploratory"), " to make no claims")
                raise FieldError("prompts", count, wanted, shown)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return dict(json.loads(json.dumps(asdict(self))))


def check_run(run: Path, plan: Plan) -> None:
    """Check that a run of this plan can begin or resume in a folder.

    Raises:
        ValueError: if the folder holds another comparison or something else, can't be written, or another process is
            using it.
    """
    check_free(run)
    check_content(run, plan)
    check_folder_writable(run)


def check_content(run: Path, plan: Plan) -> None:
    """Check as `check_run` does, but not whether another process is using the folder.

    Raises:
        ValueError: if the folder holds another comparison or something else.
    """
    if (run / PLAN).exists():
        kept, asked = read_plan(run).as_dict(), _as_planned(plan).as_dict()
        kept["preset"] = kept["preset"] or asked["preset"]  # not in older plans
        changed = [name for name, value in asked.items() if kept[name] != value and name != WORDS]
        if asked["exploratory"] and "exploratory" in changed:  # a claim may be dropped afterwards, but not added
            changed.remove("exploratory")
        if changed:
            raise ValueError(f"{run} holds another comparison ({', '.join(changed)} differ); choose another folder")
    elif run.exists() and (not run.is_dir() or any(path.name != LOCK for path in run.iterdir())):
        raise ValueError(f"{run} exists but does not hold a comparison; choose another folder")
    for folder in run.parents:
        if folder.is_file():
            raise ValueError(f"{run} can't be a folder: {folder} is a file")


def keep_plan(run: Path, plan: Plan) -> None:
    """Write the plan to a run's folder, unless it exists."""
    if not (run / PLAN).exists():
        write_json(run / PLAN, _as_planned(plan).as_dict())


def _as_planned(plan: Plan) -> Plan:
    """The plan with the weights that its backbone's name stands for, and what the preset says unless it tells."""
    preset = load_preset(plan.backbone)
    settings = plan.preset or PresetSettings(preset.context, preset.sampler, preset.memory, preset.output)
    return replace(plan, backbone_id=backbone_id(preset.folder), preset=settings)


def read_plan(run: Path) -> Plan:
    """Read the plan in a run's folder.

    Raises:
        ValueError: if there is none, or it has another version.
    """
    if not (run / PLAN).is_file():
        why = f"it has no {PLAN}" if run.is_dir() else "it is a file" if run.exists() else "it does not exist"
        raise ValueError(f"{run} is not a comparison: {why}")
    return read_document(run / PLAN, Plan)


def read_plan_to_repeat(path: Path) -> Plan:
    """Read a plan from its JSON file, to make the same takes again.

    Raises:
        ValueError: if it can't be read, or its backbone's name now stands for other weights.
    """
    plan = read_document(path, Plan)
    present = _as_planned(plan).backbone_id
    if plan.backbone_id not in (None, present):
        raise ValueError(f"{path} was made with weights {plan.backbone_id} of {plan.backbone}; here they are {present}")
    return plan
