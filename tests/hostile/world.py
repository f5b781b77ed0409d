"""A small world of files to be damaged, and the commands that open each of them.

work/    a backbone, two takes, a run, files of cues, arms, prompts, scenarios, a LoRA, a picture, a config
around/  what no command may touch
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import h5py
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from longlive_rag import LongLiveRAGPipeline
from longlive_rag.rights.records import RECORDS, record_terms
from longlive_rag.takes.folder import RECORD
from retrieval.files import write_json
from retrieval.sealed import HEADER_BYTES, seal
from retrieval.store import FORMAT, KIND
from tests.conftest import random_pipeline
from tests.hostile.commands import Command, run_here
from tests.hostile.mutations import mutate_bytes, mutate_header, mutate_json, mutate_text, replace_file
from tests.layouts import peft_lora

WORDS = "a red circle walks in a meadow"
CUES = {
    "seconds": 2,
    "cues": [{"at": 0, "prompt": WORDS}, {"at": "0:01", "prompt": "a blue square"}, {"at": 1.5, "pin": "0-1"}],
}
PEOPLE = [{"id": "a", "who": "a red circle", "where": "a meadow"}]
SUBJECTS = [{"prompt": WORDS, "cues": [[1, "a blue square"]]}]
SCENARIOS = {
    "leaves": {"prompt": "{who} in {where}", "about": "it leaves", "cues": [{"at": 1, "prompt": "{where}"}]},
}
ARMS = '[native]\nmemory = false\n[k3]\nmemory-frames = 3\nretrieval = "random"\npin = ["0-1", "1-2"]\n'
CONFIG = 'license_policy = "research"\n'
POLICY = ("--license-policy", "commercial")
MAKE = ("generate", WORDS, "--backbone", "model", "--seconds", "1", "-o", "new")
Mutate = Callable[[Path, Random], None]


@dataclass(frozen=True)
class Target:
    """What is damaged, and who reads it.

    Attributes:
        files: a pattern inside `work`; one of the files is damaged.
        mutations: one of them is done.
        commands: one of them is run; `-o` is never there yet.
    """

    files: str
    mutations: tuple[Mutate, ...]
    commands: tuple[Command, ...]


def build(folder: Path) -> Path:
    """The world, in a new folder."""
    work = folder / "work"
    work.mkdir(parents=True)
    (folder / "around").mkdir()
    (folder / "around" / "secret").write_text("secret\n")
    random_pipeline().save_pretrained(work / "model")
    record_terms(work / "model", "Apache-2.0", "https://example.org", "J. Doe")
    Image.new("RGB", (48, 32), "red").save(work / "picture.png")
    for name, more in (("take", ("--cue", "1", "a blue square")), ("other", ("--start-image", "picture.png"))):
        ended = run_here((*MAKE[:-1], name, "--seconds", "2.5", *more, *POLICY), work)
        assert ended.code == 0, ended.err
    _unfinished(work)
    shutil.copytree(work / "other", folder / "around" / "other")
    pipe = LongLiveRAGPipeline.from_pretrained(work / "model")
    save_file(peft_lora(pipe.transformer, 2), work / "lora.safetensors")
    (work / "adapter_config.json").write_text('{"lora_alpha": 2, "r": 2}')
    for name, content in (("cues", CUES), ("people", PEOPLE), ("subjects", SUBJECTS), ("scenarios", SCENARIOS)):
        (work / f"{name}.json").write_text(json.dumps(content))
    lines = [f"- at: {cue['at']}\n  {list(cue)[1]}: {list(cue.values())[1]}" for cue in CUES["cues"]]  # type: ignore[index]
    (work / "cues.yaml").write_text("seconds: 2\ncues:\n" + "\n".join(lines) + "\n")
    (work / "cues.jsonl").write_text(json.dumps({"prompts": [WORDS, "a blue square"], "times": [0, 1]}) + "\n")
    (work / "cues.txt").write_text(
        f"# a story\n0 {WORDS}\n0:01 a blue square\n0:01.5 :pin 0-1\n0:01.5 :establish off\n"
    )
    (work / "prompts.txt").write_text(f"{WORDS}\n# no prompt\na blue square\n")
    (work / "arms.toml").write_text(ARMS)
    (work / "config.toml").write_text(CONFIG)
    _embedded(pipe, work)
    told = (
        "--arms",
        "native,memory",
        "--prompts",
        "prompts.txt",
        "--embedders",
        "pixels",
        "--horizons",
        "10",
        "--exploratory",
    )
    ended = run_here(("eval", "compare", *told, "--backbone", "model", "-o", "run"), work)
    assert ended.code == 0, ended.err
    return folder


def _embedded(pipe: LongLiveRAGPipeline, work: Path) -> None:
    from longlive_rag.presets.embeddings import encoder_id, write_embeddings

    with torch.no_grad():
        write_embeddings(work / "embeds.safetensors", {WORDS: pipe.embed([WORDS])[0]}, encoder_id(work / "model"))


def _unfinished(work: Path) -> None:
    """`other` as a kill left it: without its last block, and with a record that says it is being made."""
    folder = work / "unfinished"
    shutil.copytree(work / "other", folder)
    record = json.loads((folder / RECORD).read_text())
    write_json(folder / RECORD, {**record, "status": "running", "checksum": None})
    max((folder / "latents").glob("*.h5")).unlink()


# ---- mutations of files ----


def json_file(path: Path, random: Random) -> None:
    """Something in a JSON file is another."""
    path.write_text(mutate_json(path.read_text(), random), encoding="utf-8", errors="surrogatepass")


def unsealed_json(path: Path, random: Random) -> None:
    """Something in a document is another, and its checksum, which not every version wrote, is gone."""
    content = json.loads(path.read_text())
    content.pop("checksum", None)
    path.write_text(json.dumps(content))
    json_file(path, random)


def text_file(path: Path, random: Random) -> None:
    """Something in a text file is another."""
    path.write_text(mutate_text(path.read_text(), random), encoding="utf-8", errors="surrogatepass")


def bytes_of(path: Path, random: Random) -> None:
    """Bytes of a file are others."""
    path.write_bytes(mutate_bytes(path.read_bytes(), random))


def header_of(path: Path, random: Random) -> None:
    """The header of a safetensors file says something else."""
    path.write_bytes(mutate_header(path.read_bytes(), random))


def replaced(path: Path, random: Random) -> None:
    """There is something else where the file was."""
    replace_file(path, random)


def resealed_block(path: Path, random: Random) -> None:
    """A block by somebody who knows the format: whole, but its facts or its arrays are others."""
    with h5py.File(io.BytesIO(path.read_bytes()), "r") as file:
        facts = file["facts"][()].decode()
        arrays = {name: file[name][()] for name in file if name != "facts"}
    if random.random() < 0.5:
        facts = mutate_json(facts, random)
    else:
        name = random.choice(sorted(arrays))
        one = arrays.pop(name)
        changed: tuple[Callable[[], object], ...] = (
            lambda: one[:-1], lambda: one[..., :-1], lambda: one[None], lambda: one.astype("f8"), lambda: one * np.nan,
            lambda: one[:0], lambda: one.astype("i4"), lambda: np.bytes_(b"x"), lambda: "x", lambda: one[:, :1],
            lambda: np.repeat(one, 3, axis=0),
        )  # fmt: skip
        if kind := random.randrange(len(changed) + 1):
            arrays[name] = changed[kind - 1]()
    image = io.BytesIO()
    with h5py.File(image, "w", userblock_size=HEADER_BYTES, libver="v110") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array)
        file.create_dataset("facts", data=facts.encode("utf-8", "surrogatepass"))
    path.write_bytes(seal(KIND, FORMAT, image.getvalue()[HEADER_BYTES:]))


def resealed_tensors(path: Path, random: Random) -> None:
    """A sealed file of tensors by somebody who knows the format."""
    data = path.read_bytes()
    kind = data.split(b" {")[0].decode().removeprefix("longlive-rag ")
    change = random.choice((mutate_header, mutate_bytes))
    path.write_bytes(seal(kind, 1, change(data[HEADER_BYTES:], random)))


# ---- who reads what ----

ON_MODEL: tuple[Command, ...] = (
    (*MAKE, *POLICY),
    (*MAKE, *POLICY),
    MAKE,
    ("models", "check", "model"),
    ("models", "check", "model", "--json"),
    ("license", "show", "model"),
    ("plan", "--backbone", "model"),
    ("models", "embed-prompts", WORDS, "--backbone", "model", "-o", "new.safetensors"),
    ("models", "convert", "model", "new"),
    ("resume", "unfinished", *POLICY),
)  # fmt: skip
ON_TAKE: tuple[Command, ...] = (
    ("take", "info", "take"),
    ("take", "info", "take", "--json"),
    ("library", "list", "."),
    ("library", "search", ".", "--text", "red circle", "--words-only"),
    ("library", "search", ".", "--frame", "other@0:01", "-o", "found.png"),
    ("license", "report", "take", "-o", "rights.md"),
    ("license", "report", "take", "--spdx"),
    ("take", "export", "take", "--cues", "new.yaml", "--otio", "new.otio"),
    ("take", "export", "take", "--video", "new.mp4", "--sheet", "new.png", "--from", "0.5"),
    ("take", "repair", "take"),
    ("take", "repair", "take", "--accept-record"),
    ("resume", "take"),
    ("resume", "take", *POLICY),
    ("extend", "take", "--seconds", "1"),
    ("branch", "take", "--at", "1", "-o", "new", "--prompt", WORDS),
    ("generate", "--cues", "take", "--backbone", "model", "--seconds", "2", "-o", "new"),
    (*MAKE, "--remember", "take@0-1"),
    ("eval", "drift", "take", "--embedders", "pixels", "--horizons", "10"),
)
ON_RUN: tuple[Command, ...] = (
    ("eval", "compare", "--plan", "run/plan.json", "-o", "run"),
    ("eval", "export", "run", "-o", "new"),
)
ASKED = ("--embedders", "pixels", "--horizons", "10", "--exploratory", "--backbone", "model", "-o", "new")
COMPARE = ("eval", "compare", "--arms", "native,memory", *ASKED)
TOLD = (*COMPARE, "--prompts", "people.json", "--scenario", "leaves", "--scenarios-file", "scenarios.json")
CUED = ("generate", "--cues", "FILE", "--backbone", "model", "--seconds", "2", "-o", "new")
EMBED = ("models", "embed-prompts", "--file", "prompts.txt", "--backbone", "model", "-o", "new.safetensors")
MERGE = ("models", "convert", "model", "new", "--lora", "lora.safetensors")
RESUME = ("resume", "unfinished")
JSON = (json_file, json_file, json_file, json_file, bytes_of, replaced)
SEALED = (unsealed_json, unsealed_json, unsealed_json, unsealed_json, json_file, bytes_of, replaced)
TEXT = (text_file, text_file, text_file, text_file, bytes_of, replaced)
TENSORS = (header_of, header_of, bytes_of, replaced)
BYTES = (bytes_of, bytes_of, replaced)
BLOCKS = (resealed_block, resealed_block, bytes_of, replaced)
STATES = (resealed_tensors, resealed_tensors, bytes_of, replaced)
TARGETS = {
    "record": Target("take/take.json", SEALED, ON_TAKE),
    "block": Target("take/latents/*.h5", BLOCKS, ON_TAKE),
    "video": Target("take/video.mp4", BYTES, ON_TAKE),
    "checkpoint": Target("unfinished/checkpoints/*", STATES, (RESUME,)),
    "picture of a take": Target("unfinished/start_image.png", BYTES, (RESUME,)),
    "model index": Target("model/model_index.json", JSON, ON_MODEL),
    "config": Target("model/*/config.json", JSON, ON_MODEL),
    "tokenizer": Target("model/tokenizer/*.json", JSON, ON_MODEL),
    "weights": Target("model/*/*.safetensors", TENSORS, ON_MODEL),
    "licence records": Target(f"model/{RECORDS}", JSON, ON_MODEL),
    "cues": Target("cues.*", TEXT, (CUED,)),
    "arms": Target(
        "arms.toml", TEXT, (("eval", "compare", "--arms", "arms.toml", "--prompts", "prompts.txt", *ASKED),)
    ),
    "prompts": Target("prompts.txt", TEXT, ((*COMPARE, "--prompts", "prompts.txt"), EMBED)),
    "scenarios": Target("scenarios.json", JSON, (TOLD,)),
    "people": Target("people.json", JSON, (TOLD,)),
    "subjects": Target("subjects.json", JSON, ((*COMPARE, "--prompts", "subjects.json"),)),
    "plan": Target("run/plan.json", JSON, ON_RUN),
    "measures": Target("run/takes/*/*/*.json", SEALED, ON_RUN),
    "LoRA": Target("lora.safetensors", TENSORS, (MERGE,)),
    "LoRA's config": Target("adapter_config.json", JSON, (MERGE,)),
    "prompt embeddings": Target("embeds.safetensors", TENSORS, ((*MAKE, "--prompt-embeds", "embeds.safetensors"),)),
    "picture": Target("picture.png", BYTES, ((*MAKE, "--start-image", "picture.png"),)),
    "config file": Target("config.toml", TEXT, (MAKE, ("license", "show", "model"))),
}


def damage(work: Path, name: str, random: Random) -> tuple[Command, str]:
    """Damage one file of a target; returns a command that reads it, and what was done."""
    target = TARGETS[name]
    path = random.choice(sorted(work.glob(target.files)))
    command = random.choice(target.commands)
    mutation = random.choice(target.mutations)
    mutation(path, random)
    file = path.relative_to(work).as_posix()
    return tuple(file if word == "FILE" else word for word in command), f"{file}: {mutation.__name__}"
