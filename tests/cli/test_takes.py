"""`longlive-rag take`, `plan` and the memory options of `generate`: what they say and refuse."""

from __future__ import annotations

import json

import click
import numpy as np
import pytest
from fakes import blocks_of, make_request, timeline_of

from longlive_rag.cli.settings import Span
from longlive_rag.presets.geometry import Geometry, backbone_id, read_geometry
from longlive_rag.presets.preset import load_preset
from longlive_rag.takes.folder import LATENTS
from longlive_rag.takes.record import TakeRun, read_record
from longlive_rag.takes.remember import find_remembered, read_remembered
from longlive_rag.takes.writer import TakeWriter
from retrieval.store import BlockRecord, block_path

PROMPT = "a red circle walks in a meadow"


def write_take(folder, backbone, blocks=6, shape=(16, 4, 4), backbone_hash="same", seconds=6.0):
    """A take of a stand-in backbone, with latents of which every number is that of its frame."""
    request = make_request(seconds)
    identity = backbone_id(backbone) if backbone_hash == "same" else backbone_hash
    run = TakeRun("fake", backbone, "cpu", "float32", 2, "philox", backbone_id=identity)
    writer = TakeWriter(folder, request, timeline_of(request), run)
    for block in list(blocks_of(request))[:blocks]:
        frames = np.arange(3 * block.index, 3 * block.index + 3, dtype=np.float32)
        latents = np.broadcast_to(frames[:, None, None, None], (3, *shape))
        prompt = "one" if block.index < 3 else "two"
        writer.append(BlockRecord(block.index, latents, np.ones((3, 7), np.float32), None, prompt, None, {}))
        writer.add(block)
    writer.finish("finished")
    return folder


def damage(take, block):
    path = block_path(take / LATENTS, block)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_info(command, backbone, tmp_path):
    take = write_take(tmp_path / "take", backbone)
    result = command("take", "info", take)
    assert result.code == 0
    assert "6 blocks, 18 latent frames of [16, 4, 4], embeddings of 7" in result.out
    facts = json.loads(command("take", "info", take, "--json").out)
    assert (facts["latents"]["blocks"], facts["latents"]["damage"], facts["being_written"]) == (6, None, False)
    assert facts["prompt"] == PROMPT


def test_damage_is_told_and_repaired(command, backbone, tmp_path):
    take = write_take(tmp_path / "take", backbone)
    damage(take, 4)
    told = command("take", "info", take)
    assert told.code == 1
    assert "000004.h5 is damaged" in told.err
    assert f"`longlive-rag take repair {take}`" in told.err
    assert "4 blocks" in told.out
    mended = command("take", "repair", take)
    assert mended.code == 0
    assert "kept the first 4 blocks; moved 2 to" in mended.out
    assert command("take", "info", take).code == 0
    assert "nothing to repair" in command("take", "repair", take).out


@pytest.mark.parametrize("words", [("take", "info"), ("take", "repair")])
def test_what_is_no_take_is_refused(command, tmp_path, words):
    result = command(*words, tmp_path / "nowhere")
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)


def test_a_take_from_the_future_is_refused(command, backbone, tmp_path):
    take = write_take(tmp_path / "take", backbone)
    path = block_path(take / LATENTS, 1)
    path.write_bytes(path.read_bytes().replace(b'"format": 1', b'"format": 7', 1))
    for verb in ("info", "repair"):
        result = command("take", verb, take)
        assert result.code == 2
        assert "format 7" in result.err


# ---- generate's memory options ----


def generate(command, backbone, tmp_path, *arguments):
    return command("generate", PROMPT, "-o", tmp_path / "new", "--backbone", backbone, "--seconds", "4", *arguments)


def test_memory_options_reach_the_request(command, backbone, fake_pipeline, tmp_path):
    fake_pipeline()
    other = write_take(tmp_path / "other", backbone)
    settings = {
        "--page-gpu-gib": ("2", "gpu_gib", 2.0),
        "--page-host-gib": ("512MiB", "host_gib", 0.5),
        "--page-precision": ("float8", "page_precision", "float8"),
        "--stale-pages": ("keep", "stale_pages", "keep"),
        "--exclude": ("1-2", "exclude", [[1.0, 2.0]]),
        "--pin": ("0-0.5", "pin", [[0.0, 0.5]]),
        "--anchor": ("0-1", "anchor", [0.0, 1.0]),
        "--admit-above": ("0.5", "admit_above", 0.5),
        "--prompt-weight": ("0.25", "prompt_weight", 0.25),
        "--diversity": ("0.5", "diversity", 0.5),
        "--stratified": ("2", "spread", 2),
        "--establish": ("0:08", "establish", 8.0),
        "--new-view": ("steps", "new_view", "steps"),
        "--remember": (f"{other}@0-2", "remember", [f"{other}@0-2"]),
    }
    arguments = [word for flag, (value, *_) in settings.items() for word in (flag, value)]
    result = generate(command, backbone, tmp_path, *arguments, "--pin", "3-3.5")
    assert result.code == 0, result.err
    memory = json.loads((tmp_path / "new" / "take.json").read_text())["request"]["memory"]
    for _, field, value in settings.values():
        assert memory[field] == (value if field != "pin" else [[0.0, 0.5], [3.0, 3.5]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--page-host-gib", "4TB"], "'4TB' is not a size such as 4 (GiB), 512MiB or 8GB"),
        (["--page-gpu-gib", "lots"], "'lots' is not a size"),
        (["--page-host-gib", "-1"], "--page-host-gib is -1; it must be a number of GiB from 0 to 100000"),
        (["--page-gpu-gib", "-2MiB"], "--page-gpu-gib is -0.00195312"),
        (["--pin", "3-9"], None),
        (["--pin", "9-10"], "--pin is 9-10 s; it must begin within the take, 0-4 s, and end after it begins"),
        (["--exclude", "2-1"], "--exclude is 2-1 s; it must begin within the take, 0-4 s, and end after it begins"),
        (["--pin", "soon"], "'soon' is not a span of seconds such as 2-3.5"),
        (["--pin", "1-2", "--exclude", "1.5-3"], "--pin is 1-2 s, but 1.5-3 s is excluded"),
        (["--anchor", "0-1"], "--anchor is set but --admit-above is not"),
        (["--admit-above", "0.5"], "--admit-above is set but --anchor is not"),
        (["--anchor", "0-1", "--admit-above", "3"], "--admit-above is 3; it must be a number from -1 to 1"),
        (["--establish", "long"], "--establish': 'long' is not a timecode; write 12.5, 0:12.5"),
        (["--establish", "00:00:02:08"], "'00:00:02:08' counts frames, but the frame rate is unknown; write seconds"),
        (["--establish", "-1"], "--establish is -1"),
        (["--establish", "nan"], "--establish is nan"),
        (["--new-view", "leaps"], "'leaps' is neither a number nor 'steps'"),
        (["--new-view", "2", "--establish", "8"], "--new-view is 2; it must be steps, or a number from -1 to 1"),
        (["--new-view", "steps", "--no-establish"], "--new-view is given, but memory admits every frame"),
        (["--prompt-weight", "1"], "--prompt-weight is 1; it must be a number from 0 to below 1"),
        (["--diversity", "-0.1"], "--diversity is -0.1"),
        (["--stratified", "-1"], "--stratified is -1; it must be a whole number, 0 or more"),
        (["--stratified", "7"], "--stratified is 7, but memory brings back 6 frames"),
        (["--stratified", "1", "--no-memory"], "--stratified is given, but memory is off (--no-memory)"),
        (["--page-precision", "int3"], "int3"),
        (["--remember", "nowhere"], "nowhere is not a take"),
        (["--remember", "first@2"], "--remember is 'first@2'; there is no such take; for a part of one, write TAKE"),
        (["--remember", "nowhere", "--rope", "absolute"], "'nowhere', but --rope is 'absolute'; another take's frames"),
        (["--remember", "nowhere", "--no-memory"], "--remember is given, but memory is off"),
        (["--pin", "1-2", "--no-memory"], "--pin is given, but memory is off (--no-memory); drop one of them"),
        (["--window", "1000000000"], "--window is 1000000000; their keys and values take"),
    ],
)
def test_bad_memory_options(command, backbone, fake_pipeline, tmp_path, arguments, message):
    fake_pipeline()
    result = generate(command, backbone, tmp_path, *arguments)
    if message is None:  # a span may reach beyond the end
        assert result.code == 0
        return
    assert (result.code, result.out) == (2, "")
    assert message in result.err
    assert result.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["backbone"]


@pytest.mark.parametrize(
    ("direction", "message"),
    [
        (
            ":exclude 2-1",
            "the direction at 1.5 s: exclude is 2-1 s; it must begin within the take, 0-4 s, and end after",
        ),
        (":pin 9-10", "the direction at 1.5 s: pin is 9-10 s; it must begin within the take, 0-4 s, and end"),
        (":policy best", "the direction at 1.5 s: policy is 'best'; it must be one of look-ahead,"),
    ],
)
def test_a_bad_direction_in_a_file_is_named_by_its_time_not_as_an_option(
    command, backbone, fake_pipeline, tmp_path, direction, message
):
    fake_pipeline()
    cues = tmp_path / "cues.txt"
    cues.write_text(f"0 a red circle\n1.5 {direction}\n")
    result = command(
        "generate", "--cues", cues, "-o", tmp_path / "new", "--backbone", backbone, "--seconds", "4", "--device", "cpu"
    )
    assert (result.code, result.out) == (2, "")
    assert message in result.err
    assert "--" not in result.err
    assert not (tmp_path / "new").exists()


def test_takes_that_can_not_be_remembered(command, backbone, fake_pipeline, tmp_path):
    fake_pipeline()
    other = write_take(tmp_path / "other", backbone, backbone_hash="another")
    result = generate(command, backbone, tmp_path, "--remember", other)
    assert result.code == 2
    assert "a take of another backbone (fake)" in result.err
    larger = write_take(tmp_path / "larger", backbone, shape=(16, 8, 8))
    result = generate(command, backbone, tmp_path, "--remember", larger)
    assert result.code == 2
    assert "pixels; this one has 32x32" in result.err
    take = write_take(tmp_path / "take", backbone)
    for span in ("90-95", "3-2", "2-5"):
        result = generate(command, backbone, tmp_path, "--remember", f"{take}@{span}")
        assert (result.code, result.err.count("\n")) == (2, 1)
        assert "lasts from 0 to 4.3" in result.err
    short = write_take(tmp_path / "short", backbone, seconds=4.0)  # its last block makes frames up to 4.3125 s
    result = generate(command, backbone, tmp_path, "--remember", f"{short}@3-4.2")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "that take lasts from 0 to 4 s, and FROM must be before TO" in result.err
    damage(take, 0)
    assert "damaged" in generate(command, backbone, tmp_path, "--remember", take).err
    assert not (tmp_path / "new").exists()


def test_an_encoder_of_another_width_is_refused(command, backbone, fake_pipeline, tmp_path):
    fake_pipeline()
    (backbone / "encoder").mkdir()
    (backbone / "encoder" / "config.json").write_text('{"in_channels": 48}')
    result = generate(command, backbone, tmp_path, "--encoder", "autoencoder")
    assert result.code == 2
    assert "reads latents of 48 channels, but this backbone's have 16" in result.err


def test_the_frames_of_another_take_are_read_by_their_seconds(backbone, tmp_path):
    take = write_take(tmp_path / "take", backbone)
    preset = load_preset(str(backbone))
    geometry = read_geometry(preset, preset.output, "mean_pool")
    assert isinstance(geometry, Geometry)
    spans = find_remembered([f"{take}@0-0:01", str(take)], preset, preset.output, geometry, "any")
    assert [span.frames for span in spans] == [range(0, 5), range(0, 18)]
    short = write_take(tmp_path / "short", backbone, seconds=4.0)
    (span,) = find_remembered([f"{short}@3-4"], preset, preset.output, geometry, "any")
    assert span.frames == range(12, 17)
    (whole,) = find_remembered([str(short)], preset, preset.output, geometry, "any")
    assert whole.frames == range(0, 17)  # not what its last block makes after the video's end
    latents, prompts = read_remembered(spans, lambda prompt: np.array([len(prompt), ord(prompt[0])], np.float32))
    assert latents.shape == (23, 16, 4, 4)
    assert latents[:, 0, 0, 0].tolist() == [*range(5), *range(18)]
    assert prompts is not None
    assert prompts[:, 1].tolist() == [ord("o")] * 5 + [ord("o")] * 9 + [ord("t")] * 9


def test_a_takes_own_files_are_not_written_over(command, tmp_path):
    take = tmp_path / "take"
    take.mkdir()
    (take / "take.json").write_text("{}")
    for words in (
        ("license", "report", take, "-o", take / "take.json"),
        ("take", "export", take, "--cues", take / "take.json", "--overwrite"),
        ("take", "export", take, "--video", take / "video.mp4", "--overwrite"),
        ("world", "render", "a red circle walks in a meadow", "-o", take / "video.mp4"),
        ("world", "subjects", "-o", take / "take.json", "--overwrite"),
    ):
        result = command(*words)
        assert (result.code, result.err.count("\n")) == (2, 1), words
        assert f"belongs to the take in {take}; choose another name" in result.err, words
    assert [path.name for path in take.iterdir()] == ["take.json"]
    assert (take / "take.json").read_text() == "{}"


@pytest.mark.parametrize("kind", ["subjects", "prompts"])
def test_subjects_and_prompts_are_not_written_over_unasked(command, tmp_path, kind):
    path = tmp_path / "mine"
    words = ("world", kind, "--count", 1, "-o", path)
    assert command(*words).code == 0
    written = path.read_text()
    path.write_text("edited")
    result = command(*words)
    assert (result.code, result.out) == (2, "")
    assert result.err == f"Error: {path} already exists; choose another name, or add --overwrite\n"
    assert path.read_text() == "edited"
    assert command(*words, "--overwrite").code == 0
    assert path.read_text() == written


def test_spans_are_timecodes():
    assert Span().convert("0:05-1:08.5", None, None) == (5.0, 68.5)
    for text in ("5", "0:05", "5-8-9", "-5-8", "00:00:01:08-00:00:02:00"):
        with pytest.raises(click.UsageError, match=r"is not a span of seconds such as 2-3\.5 or 0:02-0:03\.5"):
            Span().convert(text, None, None)


def test_a_record_without_its_parts_is_damaged(command, tmp_path):
    (tmp_path / "take").mkdir()
    (tmp_path / "take" / "take.json").write_text('{"format": 1, "status": "finished", "request": {}}')
    for words in (
        ("take", "info", tmp_path / "take"),
        ("resume", tmp_path / "take"),
        ("extend", tmp_path / "take", "--seconds", "2"),
        ("take", "export", tmp_path / "take", "--video", tmp_path / "out.mp4"),
        ("generate", "a red circle walks", "-o", tmp_path / "new", "--remember", tmp_path / "take"),
        ("generate", "-o", tmp_path / "new", "--cues", tmp_path / "take"),
    ):
        result = command(*words)
        assert (result.code, result.out) == (2, ""), words
        assert "take.json: started is missing" in result.err, words
        assert not (tmp_path / "new").exists()


def test_plan_speaks_of_what_was_asked(command, pipeline_folder):
    result = command("plan", "--backbone", pipeline_folder, "--seconds", "60", "--host-gib", "8", "--json")
    assert result.code == 0, result.err
    plan = json.loads(result.out)
    assert plan["latent_frames"] == 243
    assert plan["page_bytes"] == 2 * 2 * 6 * 48 * 4
    assert plan["past_pages"] == 231
    assert plan["advice"]["page_host_gib"] > 0
    assert plan["sessions_at_once"] == int(0.9 * 8 * 2**30) // plan["device_bytes"]
    assert plan["disk_bytes_an_hour"] == 60 * plan["disk_bytes"]
    assert json.loads(command("plan", "--backbone", pipeline_folder, "--json").out)["sessions_at_once"] is None
    words = command("plan", "--backbone", pipeline_folder, "--seconds", "60", "--device", "cuda").out
    assert "peak GPU memory" in words
    assert "peak host memory" in words
    assert "an hour of video in takes of 60 s: " in words
    assert "at once on this machine" not in words


def test_a_length_to_plan_may_be_a_timecode(command):
    plans = [command("plan", "--seconds", length, "--json") for length in ("90", "1:30", "00:01:30:00")]
    assert len({(plan.code, plan.out) for plan in plans}) == 1
    assert json.loads(plans[0].out)["latent_frames"] == 363


def test_what_a_known_backbone_needs_is_planned_before_it_is_fetched(command, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    asked = ("plan", "--backbone", "longlive", "--seconds", "60", "--device", "cuda", "--dtype", "bfloat16")
    result = command(*asked, "--gpu-gib", "24", "--host-gib", "64", "--json")
    assert result.code == 0, result.err
    assert "the weights of longlive are not here yet" in result.err
    assert "To get them: longlive-rag models fetch longlive" in result.err
    plan = json.loads(result.out)
    assert plan["page_bytes"] == 2 * 30 * 1560 * 1536 * 2
    assert plan["device"]["weights of the transformer"] == 2 * 1_418_996_800
    assert plan["host"]["weights of the text encoder"] == 2 * 5_680_910_336  # it has no room on a card of 24 GiB
    assert set(plan["advice"]) == {"page_gpu_gib", "page_host_gib"}
    (tmp_path / "longlive").mkdir()  # such as a clone of the sources
    assert "the weights of longlive are not here yet" in command(*asked).err


def test_old_names_of_page_budgets_work_with_a_note(command):
    result = command("plan", "--seconds", "60", "--memory-host-gib", "0.01", "--json")
    assert result.code == 0
    assert result.err == "Note: --memory-host-gib is now --page-host-gib; the old name works for one more release.\n"
    new = command("plan", "--seconds", "60", "--page-host-gib", "0.01", "--json")
    assert (new.out, new.err) == (result.out, "")
    both = command("plan", "--seconds", "60", "--memory-host-gib", "0", "--page-host-gib", "0.01", "--json")
    assert (both.out, both.err) == (result.out, result.err)
    for name in ("generate", "plan", "bench", "footprint", "verify"):
        shown = command(name, "--help").out
        assert "--page-host-gib" in shown
        assert "--memory-host-gib" not in shown
    replayed = command("verify", "--memory-gpu-gib", "0", "--memory-host-gib", "-1", "tests/golden/rag_ae.safetensors")
    assert (replayed.code, replayed.err.count("Note: ")) == (2, 2)
    assert "--page-host-gib is -1; it must be a number of GiB from 0 to 100000" in replayed.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("--host-gib", "0.1"),
        ("--seconds", "-1"),
        ("--seconds", "soon"),
        ("--backbone", "nowhere"),
        ("--gpu-gib", "3 apples"),
    ],
)
def test_a_plan_that_can_not_be(command, arguments):
    result = command("plan", *arguments)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)


def test_an_edited_record_is_refused_until_it_is_accepted(command, backbone, fake_pipeline, tmp_path):
    fake_pipeline()
    take = tmp_path / "take"
    assert command("generate", PROMPT, "-o", take, "--backbone", backbone, "--seconds", 1).code == 0
    content = (take / "take.json").read_text()
    (take / "take.json").write_text(content.replace('"seed": 0', '"seed": 2'))
    for words in (["resume", take], ["extend", take, "--seconds", 1], ["take", "info", take]):
        refused = command(*words)
        assert (refused.code, refused.err.count("\n")) == (2, 1)
        assert f"`longlive-rag take repair --accept-record {take}`" in refused.err
    assert command("take", "repair", "--accept-record", take).code == 0
    assert "seed" not in command("take", "info", take).err
    assert read_record(take).request.seed == 2
