"""The door for weights: the policy judges the bytes that are loaded, by whatever way they come."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from backbone.lora import Lora, read_lora
from longlive_rag import LongLiveRAGPipeline, TakeWriter
from longlive_rag.generation.rollout_memory import RememberedFrames
from longlive_rag.media.video import read_tags
from longlive_rag.rights.bill import spdx_document
from longlive_rag.rights.door import HANDED_OVER
from longlive_rag.rights.policy import LicenseError
from longlive_rag.rights.records import RECORDS, FileRights, read_records, record_terms, rights_of, weights_in
from longlive_rag.takes.record import TakeEvent, TakeRecord, read_record
from longlive_rag.takes.rights_report import facts, page
from retrieval.store import LatentStore
from tests.layouts import peft_lora

WHO = ("https://example.org", "J. Doe")


@pytest.fixture
def folder(pipeline_folder: Path, tmp_path: Path) -> Path:
    """A pipeline folder whose files are all recorded as Apache-2.0."""
    shutil.copytree(pipeline_folder, tmp_path / "model")
    record_terms(tmp_path / "model", "Apache-2.0", *WHO)
    return tmp_path / "model"


def open_(folder: Path, policy: str = "commercial", **settings: object) -> LongLiveRAGPipeline:
    return LongLiveRAGPipeline.from_pretrained(folder, license_policy=policy, **settings)


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def weights_of(part: Path) -> Path:
    return next(part.glob("*.safetensors"))


# ---- links ----


@pytest.mark.parametrize("part", ["transformer", "text_encoder"])
def test_changed_weights_behind_a_linked_folder_are_refused(folder: Path, tmp_path: Path, part: str) -> None:
    shutil.move(folder / part, tmp_path / "elsewhere")
    (folder / part).symlink_to(tmp_path / "elsewhere")
    flip_a_byte(weights_of(tmp_path / "elsewhere"))
    with pytest.raises(LicenseError, match=rf"{part}/.*safetensors; its terms: Apache-2\.0 .*void because"):
        open_(folder)
    with pytest.raises(LicenseError, match=part):
        open_(folder, "research")


def test_a_linked_file_is_judged_by_its_bytes(folder: Path, tmp_path: Path) -> None:
    weights = weights_of(folder / "vae")
    shutil.move(weights, tmp_path / "other.safetensors")
    weights.symlink_to(tmp_path / "other.safetensors")
    assert open_(folder)  # the folder's own record is bound to these bytes
    flip_a_byte(tmp_path / "other.safetensors")
    with pytest.raises(LicenseError, match="void because the file has changed"):
        open_(folder)


def test_a_text_encoder_shared_by_a_link_and_recorded_once_serves_two_folders(folder: Path, tmp_path: Path) -> None:
    shared = tmp_path / "shared" / "umt5"
    shared.parent.mkdir()
    shutil.move(folder / "text_encoder", shared)
    (folder / RECORDS).unlink()
    (folder / "text_encoder").symlink_to(shared)
    shutil.copytree(folder, tmp_path / "second", symlinks=True)
    for model in (folder, tmp_path / "second"):
        assert (model / "text_encoder").is_symlink()
        for part in ("transformer", "vae", "encoder", "tokenizer"):
            record_terms(model / part, "Apache-2.0", *WHO)
        with pytest.raises(LicenseError, match="text_encoder"):
            open_(model)
    record_terms(shared, "MIT", *WHO)
    for model in (folder, tmp_path / "second"):
        names = {each.file: each.use for each in open_(model).door.rights}
        assert names["text_encoder/model.safetensors"] == "commercial"
        assert len(names) == len(weights_in(model))


def test_recording_a_folder_records_what_a_link_leads_to_where_it_lies(folder: Path, tmp_path: Path) -> None:
    shutil.move(folder / "text_encoder", tmp_path / "umt5")
    (folder / RECORDS).unlink()
    (folder / "text_encoder").symlink_to(tmp_path / "umt5")
    record_terms(folder, "MIT", *WHO)
    assert list(read_records(tmp_path / "umt5")) == ["model.safetensors"]
    assert "text_encoder/model.safetensors" not in read_records(folder)
    assert open_(folder)


def test_a_circle_of_links_ends(folder: Path) -> None:
    (folder / "transformer" / "again").symlink_to(folder)
    assert open_(folder)


# ---- shards ----


def test_a_hidden_shard_is_judged(folder: Path) -> None:
    part = folder / "transformer"
    whole = weights_of(part)
    os.replace(whole, part / ".nc.safetensors")
    from safetensors import safe_open

    with safe_open(part / ".nc.safetensors", "pt") as file:
        weight_map = dict.fromkeys(file.keys(), ".nc.safetensors")
    index = {"metadata": {}, "weight_map": weight_map}
    (part / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(LicenseError, match=r"\.nc\.safetensors.*its terms: unrecorded"):
        open_(folder)
    assert "transformer/.nc.safetensors" in [each.file for each in open_(folder, "any").door.rights]


def test_a_shard_that_is_not_called_one_is_not_loaded(folder: Path) -> None:
    """transformers opens any name that an index lists, and a record is only kept for names of weights."""
    part = folder / "text_encoder"
    tensors = load_file(part / "model.safetensors")
    (part / "model.safetensors").unlink()
    files = {"a.safetensors": sorted(tensors)[:2], "b.data": sorted(tensors)[2:]}
    for file, names in files.items():
        save_file({name: tensors[name] for name in names}, part / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, names in files.items() for name in names}}
    (part / "model.safetensors.index.json").write_text(json.dumps(index))
    record_terms(part, "Apache-2.0", *WHO)
    with pytest.raises(ValueError, match=r"names the file 'b\.data'; a shard's name must end in \.safetensors"):
        open_(folder)


def test_files_beside_those_that_are_checked_are_not_opened(folder: Path) -> None:
    with pytest.raises(ValueError, match="use_safetensors is False; leave it out"):
        open_(folder, use_safetensors=False)


# ---- from Python ----


@pytest.fixture
def lora(folder: Path, tmp_path: Path) -> Lora:
    pipe = open_(folder, "any")
    torch.save(peft_lora(pipe.transformer, 2), tmp_path / "lora.pt")
    return read_lora(tmp_path / "lora.pt", alpha=2.0)


def test_the_policy_of_a_pipeline_is_fixed_when_it_is_opened(folder: Path) -> None:
    pipe = open_(folder)
    with pytest.raises(AttributeError):
        pipe.license_policy = "any"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        pipe.door = None  # type: ignore[misc, assignment]
    with pytest.raises(AttributeError):
        pipe.door.policy = "any"  # type: ignore[misc]
    assert pipe.license_policy == "commercial"


def test_a_lora_passes_the_door_by_every_way(folder: Path, tmp_path: Path, lora: Lora) -> None:
    pipe, tensors = open_(folder), lora.for_diffusers()
    for place in (tmp_path / "good", tmp_path / "bad"):
        place.mkdir()
        save_file(tensors, place / "lora.safetensors")
    record_terms(tmp_path / "good", "MIT", *WHO)
    plain = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    for refused in (
        lambda: pipe.load_lora_weights(tmp_path / "good", subfolder="../bad"),
        lambda: pipe.load_lora_weights(tmp_path / "good", subfolder="../bad", weight_name="lora.safetensors"),
        lambda: pipe.load_lora_weights(tensors),
        lambda: pipe.transformer.load_lora_adapter(dict(plain), prefix=None),
        lambda: pipe.load_lora_into_transformer(dict(tensors), pipe.transformer),
    ):
        with pytest.raises(LicenseError):
            refused()
    assert not getattr(pipe.transformer, "peft_config", None)
    pipe.load_lora_weights(tmp_path / "good")
    assert pipe.transformer.peft_config
    assert [each.use for each in pipe.door.rights if "lora" in each.file] == ["commercial"]


def test_what_was_loaded_without_a_record_is_in_the_rights(folder: Path, lora: Lora) -> None:
    pipe = open_(folder, "any")
    pipe.load_lora_weights(lora.for_diffusers())
    assert [(each.file, each.use) for each in pipe.door.rights][-1] == ("a LoRA (put in from Python)", "unknown")


@pytest.mark.parametrize("way", ["from_pretrained", "attribute", "register"])
def test_a_part_put_in_by_hand_is_refused(folder: Path, way: str) -> None:
    other = open_(folder, "any").transformer
    if way == "from_pretrained":
        with pytest.raises(LicenseError, match=r"transformer .put in from Python."):
            open_(folder, transformer=other)
        return
    pipe = open_(folder)
    if way == "attribute":
        pipe.transformer = other
    else:
        pipe.register_modules(transformer=other)
    with pytest.raises(LicenseError, match=r"transformer .put in from Python."):
        pipe.stream("a red circle walks in a meadow", seconds=1.0)


def test_a_lora_with_what_is_not_a_number_is_refused(folder: Path, tmp_path: Path, lora: Lora) -> None:
    tensors = lora.for_diffusers()
    next(iter(tensors.values()))[0, 0] = float("nan")
    save_file(tensors, tmp_path / "lora.safetensors")
    with pytest.raises(ValueError, match=r"lora\.safetensors: .* not finite numbers"):
        open_(folder, "any").load_lora_weights(tmp_path / "lora.safetensors")


def test_a_file_that_changes_while_it_is_loaded_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from longlive_rag.rights import loading

    def swap(path: Path, components: object) -> None:
        flip_a_byte(weights_of(path / "encoder"))

    monkeypatch.setattr(loading, "check_folder", swap)
    with pytest.raises(LicenseError, match="has changed while it was loaded"):
        open_(folder)


def test_rights_name_what_a_linked_file_is_called_in_the_folder(folder: Path, tmp_path: Path) -> None:
    shutil.move(folder / "encoder", tmp_path / "embeddings")
    (folder / "encoder").symlink_to(tmp_path / "embeddings")
    assert {each.file.split("/")[0] for each in rights_of(folder)} >= {"transformer", "vae", "encoder"}


# ---- takes ----

PROMPT = "a red circle walks in a meadow"


def make_take(
    pipe: LongLiveRAGPipeline,
    folder: Path,
    seconds: float,
    event: TakeEvent = "generated",
    remember: tuple[str, ...] = (),
) -> TakeRecord:
    request = pipe.request(PROMPT, seconds=seconds, memory=replace(pipe.memory, remember=remember))
    take = TakeWriter(folder, request, pipe.timeline(request), pipe.take_run(), event=event)
    for block in pipe.stream(request, stores=[take]):
        take.add(block)
    return take.finish("finished")


def test_a_lora_is_in_the_rights_of_every_take_made_after_it(folder: Path, tmp_path: Path, lora: Lora) -> None:
    pipe = open_(folder, "any")
    first = make_take(pipe, tmp_path / "first", 1.0)
    save_file(lora.for_diffusers(), tmp_path / "lora.safetensors")
    pipe.load_lora_weights(tmp_path / "lora.safetensors")
    second = make_take(pipe, tmp_path / "second", 1.0)
    assert first.rights is not None
    assert second.rights is not None
    assert (first.rights.weights_allow, second.rights.weights_allow) == ("commercial", "unknown")
    added = {each.file for each in second.rights.files} - {each.file for each in first.rights.files}
    assert added == {"lora.safetensors"}


def test_the_weights_of_takes_that_are_remembered_are_in_the_rights(folder: Path, tmp_path: Path, lora: Lora) -> None:
    save_file(lora.for_diffusers(), tmp_path / "lora.safetensors")
    with_lora = open_(folder, "any")
    with_lora.load_lora_weights(tmp_path / "lora.safetensors")
    make_take(with_lora, tmp_path / "first", 1.0)
    pipe = open_(folder, "any")
    for name, before in (("second", "first"), ("third", "second")):  # the third through the second
        make_take(pipe, tmp_path / name, 1.0, remember=(str(tmp_path / before),))
        made = make_take(pipe, tmp_path / name, 2.0, "extended", remember=(str(tmp_path / before),))
        assert made.rights is not None
        assert [(each.file, each.use) for each in made.rights.remembered] == [("lora.safetensors", "unknown")]
        assert "lora.safetensors" not in [each.file for each in made.rights.files]  # it goes on without it
        assert read_record(tmp_path / name).rights == made.rights
        assert made.rights.weights_allow == "unknown"
        report = facts(tmp_path / name)
        assert "Not known: no valid record for lora.safetensors." in page(report)
        assert "lora.safetensors" in [each["name"] for each in spdx_document(report)["packages"]]
        stated = json.loads(read_tags(tmp_path / name / "video.mp4")["description"])
        assert stated["weights_allow"] == "unknown"
        assert "lora.safetensors" in [each["file"] for each in stated["weights"]]
    make_take(pipe, tmp_path / "plain", 1.0)
    same = make_take(pipe, tmp_path / "same", 1.0, remember=(str(tmp_path / "plain"),)).rights
    assert same is not None
    assert (same.weights_allow, same.remembered) == ("commercial", ())
    assert "remembered" not in json.loads((tmp_path / "same" / "take.json").read_text())["rights"]


def frames_of(take: Path, *files: FileRights) -> RememberedFrames:
    return RememberedFrames(LatentStore(take / "latents").latents(range(3)), None, files)


def test_frames_handed_over_from_python_are_in_the_rights_and_not_known_without_files(
    folder: Path, tmp_path: Path
) -> None:
    pipe = open_(folder, "any")
    first = make_take(pipe, tmp_path / "first", 1.0)
    assert first.rights is not None
    whole = first.rights.files
    request = pipe.request(PROMPT, seconds=1.0, memory=replace(pipe.memory, prompt_weight=0.0))
    for name, files, listed in (("by hand", (), [HANDED_OVER]), ("with files", whole, [])):
        take = TakeWriter(tmp_path / name, request, pipe.timeline(request), pipe.take_run())
        for block in pipe.stream(request, stores=[take], remembered=frames_of(tmp_path / "first", *files)):
            take.add(block)
        rights = take.finish("finished").rights
        assert rights is not None
        assert [each.file for each in rights.remembered] == listed
        assert rights.weights_allow == ("unknown" if listed else "commercial")
        assert (HANDED_OVER in page(facts(tmp_path / name))) is bool(listed)
    third = make_take(pipe, tmp_path / "third", 1.0, remember=(str(tmp_path / "by hand"),)).rights
    assert third is not None
    assert [each.file for each in third.remembered] == [HANDED_OVER]


def test_a_policy_judges_frames_handed_over_from_python(folder: Path, tmp_path: Path) -> None:
    made = make_take(open_(folder), tmp_path / "first", 1.0)
    assert made.rights is not None
    pipe = open_(folder)
    request = pipe.request(PROMPT, seconds=1.0, memory=replace(pipe.memory, prompt_weight=0.0))
    assert list(pipe.stream(request, remembered=frames_of(tmp_path / "first", *made.rights.files)))
    with pytest.raises(LicenseError, match=r"'commercial' does not allow frames in `remembered` .*: unrecorded$"):
        pipe.stream(request, remembered=frames_of(tmp_path / "first"))
    for_research = replace(made.rights.files[0], use="research")
    with pytest.raises(LicenseError, match="does not allow frames in `remembered`"):
        pipe.stream(request, remembered=frames_of(tmp_path / "first", *made.rights.files, for_research))


def test_a_take_is_as_free_as_the_weakest_of_its_parts(folder: Path, tmp_path: Path) -> None:
    make_take(open_(folder, "any"), tmp_path / "take", 1.0)
    with pytest.raises(LicenseError, match="take was made under license policy 'any' and can't be used under 'commer"):
        make_take(open_(folder), tmp_path / "take", 2.0, "extended")
    extended = make_take(open_(folder, "any"), tmp_path / "take", 2.0, "extended")
    assert extended.rights is not None
    assert extended.rights.license_policy == "any"


def test_a_take_is_not_continued_with_other_weights(folder: Path, tmp_path: Path) -> None:
    """One byte in the middle of a file that is larger than what a backbone's short id reads."""
    make_take(open_(folder, "any"), tmp_path / "take", 1.0)
    flip_a_byte(weights_of(folder / "text_encoder"))
    with pytest.raises(ValueError, match=r"take was made with different weights: text_encoder/model\.safetensors"):
        make_take(open_(folder, "any"), tmp_path / "take", 2.0, "extended")


def test_a_take_made_with_a_lora_is_continued_with_it(folder: Path, tmp_path: Path, lora: Lora) -> None:
    save_file(lora.for_diffusers(), tmp_path / "lora.safetensors")
    with_lora = open_(folder, "any")
    with_lora.load_lora_weights(tmp_path / "lora.safetensors")
    make_take(with_lora, tmp_path / "take", 1.0)
    with pytest.raises(ValueError, match=r"made with different weights: lora\.safetensors"):
        make_take(open_(folder, "any"), tmp_path / "take", 2.0, "extended")
    assert make_take(with_lora, tmp_path / "take", 2.0, "extended").status == "finished"
