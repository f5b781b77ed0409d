"""Cue files: every format is read as people write it, and read again as it was written."""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import blocks_of, make_request, timeline_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from longlive_rag.config import Cue, Steering
from longlive_rag.generation.cues import Schedule
from longlive_rag.takes.cue_files import SUFFIXES, read_cues, write_cues
from longlive_rag.takes.record import TakeRun
from longlive_rag.takes.writer import TakeWriter
from longlive_rag.timeline import Timeline

FPS = 16
SAMPLES = Path(__file__).with_name("samples_cues")
words = st.text(min_size=1, max_size=40).filter(lambda text: text.strip())
times = st.floats(0.001, 86_000, allow_nan=False)


@st.composite
def schedules(draw) -> Schedule:
    at = sorted(draw(st.sets(times, max_size=5)))
    steering = []
    for seconds in sorted(draw(st.sets(times, max_size=2))):
        start, end = sorted(draw(st.tuples(times, times)))
        verb = draw(st.sampled_from(["pin", "exclude", "unpin", "establish", "policy"]))
        if verb == "policy":
            steering.append(Steering(seconds, verb, policy=draw(st.sampled_from(["similar", "my-policy_2"]))))
        elif verb != "establish":
            steering.append(Steering(seconds, verb, start, end))
        else:
            new_view = draw(st.none() | st.just("steps") | st.floats(-1, 1))
            steering.append(Steering(seconds, "establish", establish=draw(st.floats(0, 60)), new_view=new_view))
    cues = tuple(Cue(seconds, draw(words), draw(st.booleans())) for seconds in at)
    return Schedule(draw(words), cues, max([0.5, *at]) + 1, tuple(steering))


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(schedule=schedules())
def test_every_format_round_trips(tmp_path, suffix, schedule):
    path = tmp_path / f"cues{suffix}"
    write_cues(path, schedule)
    assert read_cues(path, FPS).schedule(seconds=schedule.seconds) == schedule
    if suffix != ".txt":
        assert read_cues(path, FPS).schedule() == schedule


def write(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_plain_lines_are_spread_evenly(tmp_path):
    path = write(tmp_path, "story.txt", "\ufeffone\r\n\r\n# a note\r\n  two  \r\n3D three\r\nfour")
    schedule = read_cues(path, FPS).schedule(seconds=20)
    assert schedule == Schedule("one", (Cue(5, "two"), Cue(10, "3D three"), Cue(15, "four")), 20)
    schedule = read_cues(path, FPS).schedule(seconds=20, switch_every=2)
    assert [cue.seconds for cue in schedule.cues] == [2, 4, 6]
    assert read_cues(path, FPS).schedule(switch_every=2).seconds == 8
    led = read_cues(path, FPS).schedule(seconds=20, prompt="zero")
    assert (led.prompt, [cue.seconds for cue in led.cues]) == ("zero", [4, 8, 12, 16])


def test_lines_with_timecodes(tmp_path):
    text = '0 one\n0:05\ttwo\n00:00:12:08  "3 circles walk"\n13.5 :pin 5-0:08\n1:02:03.5 "Go", he says\n'
    schedule = read_cues(write(tmp_path, "story.txt", text), FPS).schedule(seconds=4000)
    assert schedule.prompt == "one"
    assert schedule.cues == (Cue(5, "two"), Cue(12.5, "3 circles walk"), Cue(3723.5, '"Go", he says'))
    assert schedule.steering == (Steering(13.5, "pin", 5, 8),)


def test_any_line_ends_and_numbers_in_quotes(tmp_path):
    text = '\ufeff0 one\r1 "1,000 balloons"\r\n2 8k picture\n'
    schedule = read_cues(write(tmp_path, "a.txt", text), FPS).schedule(seconds=3)
    assert schedule == Schedule("one", (Cue(1, "1,000 balloons"), Cue(2, "8k picture")), 3)


@pytest.mark.parametrize("word", ["true", "True", "TRUE"])
def test_true_as_yaml_writes_it(tmp_path, word):
    path = write(tmp_path, "a.yaml", f"cues:\n- prompt: one\n  at: 0\n- prompt: two\n  at: 1\n  cut: {word}\n")
    assert read_cues(path, FPS).schedule(seconds=3).cues == (Cue(1, "two", True),)


def test_cuts_are_written_as_people_would(tmp_path):
    cut = (Cue(5, "two"), Cue(9, "three", cut=True))
    for name, text in (
        ("story.txt", "0 one\n5 two\n0:09 :cut  three"),
        ("quoted.txt", '0 one\n5 two\n0:09 :cut "three"'),
        (
            "story.yaml",
            "cues:\n- {at: 0, prompt: one}\n- {at: 5, prompt: two, cut: false}\n- {at: 0:09, prompt: three, cut: true}",
        ),
        (
            "story.jsonl",
            '{"cues": [{"at": 0, "prompt": "one"}, {"at": 5, "prompt": "two"}, '
            '{"at": 9, "cut": true, "prompt": "three"}]}',
        ),
    ):
        assert read_cues(write(tmp_path, name, text), FPS).schedule(seconds=12).cues == cut
    evenly = read_cues(write(tmp_path, "even.txt", "one\n:cut two\n"), FPS).schedule(seconds=8)
    assert evenly.cues == (Cue(4, "two", cut=True),)
    write_cues(tmp_path / "written.txt", Schedule("one", cut, 12))
    assert (tmp_path / "written.txt").read_text() == "0:00  one\n0:05  two\n0:09  :cut three\n"


def test_the_first_prompt_may_come_from_elsewhere(tmp_path):
    path = write(tmp_path, "story.txt", "4 two\n8 three")
    schedule = read_cues(path, FPS).schedule(prompt="one", seconds=10)
    assert (schedule.prompt, len(schedule.cues)) == ("one", 2)
    with pytest.raises(ValueError, match="line 1, begins at 4 s, but there is no prompt before it"):
        read_cues(path, FPS).schedule(seconds=10)
    timed = write(tmp_path, "timed.txt", "0 one\n8 three")
    with pytest.raises(ValueError, match="line 1, is the prompt at 0 s, but another prompt is given"):
        read_cues(timed, FPS).schedule(prompt="zero", seconds=10)


def test_json_lines(tmp_path):
    lines = [{"prompts": ["a", "b"]}, {"prompts": ["c", "d", "e"], "times": [0, "0:04", 9.5], "seconds": 12}]
    path = write(tmp_path, "many.jsonl", "\n\n".join(map(json.dumps, lines)) + "\n")
    with pytest.raises(ValueError, match="holds 2 schedules, one per line; choose one with cues_line"):
        read_cues(path, FPS)
    assert read_cues(path, FPS, 1).schedule(seconds=8).cues == (Cue(4, "b"),)
    assert read_cues(path, FPS, 3).schedule() == Schedule("c", (Cue(4, "d"), Cue(9.5, "e")), 12)
    with pytest.raises(ValueError, match="no schedule in line 2; the last one is in line 3"):
        read_cues(path, FPS, 2)
    with pytest.raises(ValueError, match="already has times; drop switch_every"):
        read_cues(path, FPS, 3).schedule(switch_every=2)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_samples_open(suffix):
    steering = (Steering(10.5, "pin", 0, 2), Steering(12, "establish", establish=4, new_view=0.95))
    schedule = read_cues(SAMPLES / f"story{suffix}", FPS).schedule(seconds=20)
    assert schedule.cues == (Cue(8, "a red circle jumps in a meadow"),)
    assert schedule.steering == (() if suffix in (".jsonl", ".yml") else steering)


def test_what_memory_keeps_may_be_written_as_a_timecode(tmp_path):
    path = tmp_path / "story.txt"
    path.write_text("0 one\n2 :establish 0:08 0.95\n4 :establish 00:00:02:08 steps\n6 :establish 1.5\n")
    steering = read_cues(path, FPS).schedule(seconds=20).steering
    assert [(steer.establish, steer.new_view) for steer in steering] == [(8.0, 0.95), (2.5, "steps"), (1.5, None)]


def test_yaml_times_are_not_read_as_yaml_numbers(tmp_path):
    text = "seconds: 1:00\ncues:\n- prompt: one\n  at: 0\n- at: 0:12\n  prompt: yes\n- {at: 00:00:20:08, prompt: 12}\n"
    schedule = read_cues(write(tmp_path, "story.yaml", text), FPS).schedule()
    assert schedule == Schedule("one", (Cue(12, "yes"), Cue(20.5, "12")), 60)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "", "holds no prompt"),
        ("a.txt", "# only\n\n", "holds no prompt"),
        ("a.txt", "0 one\n5\n", "line 2, has an empty prompt"),
        ("a.txt", "0 one\ntwo", "line 2, has no timecode, but line 1 has"),
        ("a.txt", "one\n5 circles", "line 1, has no timecode, but line 2 has"),
        ("a.txt", "0 one\n5 two\n4 three", "line 3, is at 4 s, not after line 2 at 5 s"),
        ("a.txt", "0 one\n0:61 two", "line 2: '0:61' is not a timecode: 61 seconds"),
        ("a.txt", "0 one\n00:00:01:16 two", "line 2: '00:00:01:16' is not a timecode: 16 frames"),
        ("a.txt", "00:00:00;00 one\n00:00:01;10 two", "line 1: '00:00:00;00' is not a timecode; write 12.5,"),
        ("a.txt", "0 one\n1,5 two", "line 2: '1,5' is not a timecode"),
        ("a.txt", "one\n1.5s two", "line 2: '1.5s' is not a timecode"),
        ("a.txt", "[0:12] one", "line 1: '[0:12]' is not a timecode"),
        ("a.txt", "0 one\n9 two\n21 three", "line 3, is at 21 s, past the end of a 20 s take"),
        ("a.txt", "0 one\n:pin 1-2", "line 2: ':pin 1-2' has no timecode before it"),
        ("a.txt", "0 one\n2 :pin 1", "line 2: '1' is not a span"),
        ("a.txt", "0 one\n2 :establish 8 leaps", "line 2: '8 leaps' is not a value for establish; write SECONDS,"),
        ("a.txt", "0 one\n2 :establish steps", "line 2: 'steps' is not a value for establish"),
        ("a.txt", "0 one\n2 :establish 8 0.9 steps", "line 2: '8 0.9 steps' is not a value for establish"),
        ("a.txt", "0 one\n2 :dance", "line 2: ':dance' is not a direction"),
        ("a.txt", "0 one\n2 :cut", "line 2: ':cut' is not a direction"),
        ("a.txt", "0 :cut one", "line 1, is a cut at 0 s, where the first shot begins anyway; drop the cut"),
        ("a.txt", "0 one\n5 two\n5 :cut three", "line 3, is at 5 s, not after line 2 at 5 s"),
        ("a.txt", b"one\ntwo\n\xff\xfe\n", "line 3, is not UTF-8 text"),
        ("a.jsonl", "", "holds no prompt"),
        ("a.jsonl", '\n{"prompts": ["a",]}', "line 2, is not JSON"),
        ("a.jsonl", '{"prompts": []}', "holds no prompt"),
        ("a.jsonl", '{"prompts": "a"}', "line 1: prompts is 'a'; it should be a valid array"),
        ("a.jsonl", '{"prompts": [1]}', "line 1, prompt 1: prompt is 1; it should be a valid string"),
        ("a.jsonl", '{"prompts": ["a", " "]}', "line 1, prompt 2, has an empty prompt"),
        ("a.jsonl", '{"prompts": ["a", "b"], "times": [0]}', "there are 1 times for 2 prompts"),
        ("a.jsonl", '{"prompts": ["a", "b"], "times": [0, NaN]}', "line 1: NaN is not a finite number"),
        ("a.jsonl", '{"prompts": ["a", "b"], "times": [0, true]}', "line 1, prompt 2, at: True is not a timecode"),
        ("a.jsonl", '{"prompt": "a"}', "line 1: prompt is not known; did you mean 'prompts'?"),
        ("a.jsonl", '{"seconds": 3}', 'line 1: a schedule is {"prompts": [...]} or'),
        (
            "a.jsonl",
            '{"prompts": ["a"], "tempo": 3}',
            "line 1: tempo is not known; it has cues, prompts, seconds, times",
        ),
        ("a.jsonl", '["a"]', "line 1: it is a list; it should be an object"),
        ("a.jsonl", '\n{"prompts": ["a"], "prompts": ["b"]}', "line 2: 'prompts' occurs twice"),
        ("a.json", '{"cues": [], "times": [0]}', "`times` belongs to `prompts`"),
        ("a.json", '{"cues": [{"at": 0, "promt": "a"}]}', "cue 1: promt is not known; did you mean 'prompt'?"),
        ("a.json", '{"cues": [{"at": 0, "prompt": "a", "pin": "1-2"}]}', "cue 1: a cue must have exactly one of"),
        ("a.json", '{"cues": [{"at": 0, "cut": true, "prompt": "a"}]}', "cue 1, is a cut at 0 s"),
        ("a.json", '{"cues": [{"at": 0, "prompt": "a"}, {"at": 1, "cut": true}]}', "cue 2: `cut` needs a `prompt`"),
        ("a.json", '{"cues": [{"at": 3, "cut": 1, "prompt": "a"}]}', "cue 1, cut: 1 is not true or false"),
        ("a.yaml", "cues:\n- at: 3\n  prompt: a\n  cut: maybe\n", "cue 1, cut: 'maybe' is not true or false"),
        ("a.json", '{\n "cues": [}', "line 2, is not JSON"),
        ("a.json", "[" * 100_000, "nested too deeply"),
        ("a.json", '{"cues": [{"at": 0, "prompt": "a"}, {"at": 3}]}', "cue 2: a cue must have exactly one of"),
        ("a.json", '{"cues": [{"at": 0, "prompt": "a"}, {"pin": "1-2"}]}', "cue 2: `pin` needs `at`"),
        ("a.json", '{"cues": [{"at": -1, "prompt": "a"}]}', "cue 1, at: -1 is not a time in a take"),
        ("a.yaml", "cues:\n  - at: [0", "line 2, can't be read as YAML"),
        ("a.yaml", "cues: &a\n- *a\n", "line 2, can't be read as YAML: aliases are not supported"),
        ("a.yaml", "cues:\n- at: 0\n  prompt: a\n  at: 1\n", "line 2, can't be read as YAML: 'at' occurs twice"),
        ("a.yaml", "\x00", "can't be read as YAML"),
        ("a.yaml", "cues:\n- at: 0\n  prompt: wide: a dog\n", "put a prompt that contains a colon in quotes"),
        ("a.yaml", "cues:\n\t- at: 0\n", "indent with spaces, not tabs"),
        ("take.json", '{"format": 1}', "is the record of a take; to use its cues, name the take's folder"),
        ("a.csv", "one", "must be one of .txt, .jsonl, .json, .yaml, .yml"),
        (None, None, "is neither a file nor a take"),
    ],
)
def test_what_can_not_be(tmp_path, name, text, message):
    path = tmp_path / "nowhere.txt" if name is None else write(tmp_path, name, text)
    with pytest.raises(ValueError, match=re.escape(message)) as refused:
        read_cues(path, FPS).schedule(seconds=20)
    assert str(path) in str(refused.value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
@given(data=st.binary(max_size=200), suffix=st.sampled_from(SUFFIXES))
def test_no_file_does_worse_than_a_value_error(tmp_path, data, suffix):
    path = write(tmp_path, f"noise{suffix}", data)
    with contextlib.suppress(ValueError):
        assert read_cues(path, FPS).schedule(seconds=20).prompt.strip()


def test_the_cues_of_a_take(tmp_path):
    request = make_request(8.0, cues=[(4.0, "the red circle jumps")])
    steering = (Steering(5, "exclude", 1, 2),)
    request = replace(request, memory=replace(request.memory, steering=steering))
    writer = TakeWriter(
        tmp_path / "take", request, timeline_of(request), TakeRun("fake", tmp_path, "cpu", "float32", 2, "philox")
    )
    for block in blocks_of(request):
        writer.add(block)
    writer.finish("finished")
    schedule = read_cues(tmp_path / "take", FPS).schedule()
    assert schedule == Schedule(request.prompt, request.cues, 8.0, steering)
    with pytest.raises(ValueError, match="is not a take"):
        read_cues(tmp_path, FPS)


@given(block=st.integers(1, 5000), fps=st.integers(1, 240), temporal=st.sampled_from([1, 4, 8]))
def test_a_block_s_own_second_is_that_block(block, fps, temporal):
    timeline = Timeline(10**6, fps, 3, temporal)
    assert timeline.cue_block(timeline.starts_at(block)) == block
