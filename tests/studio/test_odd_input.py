"""Whatever is asked, the answer is never that the studio failed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from windows import OTHER, PROMPT, Window

from longlive_rag.studio.orders import OFFERED

NOTHING = object()
ODD = (
    NOTHING, None, True, -1, 0, 1, 10**6, 10**400, -(10**400), 0.5, 1e308, -1e308, 5e-324, float("nan"), float("inf"),
    "", " ", "\0", "a\0b", "../..", "/etc/passwd", "x" * 5000, "\ud800", "é\u202e", "nan", "0x10", "1e999",
    [], [[]], [1], [None], {}, {"a": {}}, [1.5, "x"], ["0-1"] * 3,
)  # fmt: skip
COMMANDS: tuple[dict[str, Any], ...] = (
    {"do": "direct", "prompt": OTHER, "at": 5.0},
    {"do": "edit_cue", "planned_id": "x", "prompt": OTHER, "at": 5.0},
    {"do": "withdraw_cue", "planned_id": "x"},
    *({"do": verb, "from": 0.1, "to": 0.5} for verb in ("pin", "unpin", "exclude", "unexclude")),
    {"do": "pace", "blocks_ahead": 2},
    {"do": "take_over"},
)
MAKING: tuple[dict[str, Any], ...] = (
    {"do": "undo_to", "block": -1},
    {"do": "branch", "block": 99, "prompt": OTHER, "seed": 1},
    {"do": "extend", "seconds": -1.0, "prompt": OTHER},
)
NEW: dict[str, Any] = {
    "prompt": PROMPT, "seconds": 2.0, "seed": 1, "backbone": "random", "memory": True, "start_image": "x",
    "settings": {}, "cues": [{"seconds": 1.0, "prompt": OTHER}], "remember": [{"take": "x", "from": 0.0, "to": 1.0}],
}  # fmt: skip
PATHS = ("%00", "a%00b", "..%2f..", "%ff", "%F0%9F%8E%AC", "-1", "9" * 400, "nan", "x" * 3000, "%20")


def changed(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A message with one field that is odd, missing or too many."""
    for field in (*message, "another"):
        for value in ODD:
            fresh = {name: other for name, other in message.items() if name != field}
            yield fresh if value is NOTHING else {**fresh, field: value}


@pytest.fixture
def ask(window, studio):
    """Posts JSON, whatever it is; no answer may be 500, or other than one sentence."""

    def ask(path: str, message: object) -> int:
        text = message if isinstance(message, str) else json.dumps(message)
        headers = {**window.headers, "content-type": "application/json"}
        answer = window.client.post(path, content=text.encode("utf-8", "surrogatepass"), headers=headers)
        check(answer, (path, text[:300]))
        return answer.status_code

    return ask


def check(answer, asked) -> None:
    assert answer.status_code < 500, (asked, answer.text)
    if answer.status_code >= 400:
        assert answer.json()["error"]["message"], asked
        assert "\n" not in answer.json()["error"]["message"], asked


@pytest.fixture
def takes(window, studio):
    """A finished take, one that is made and waits for the playhead, and one that there isn't."""
    finished = window.begin(2.0)
    window.ended(finished)
    studio.room.set_pace(2)
    live = window.begin(60.0)
    window.block(1)
    return finished, live, "x"


def test_odd_commands(ask, takes, studio, window):
    for take in takes:
        for command in (*COMMANDS, *(MAKING if take != takes[1] else ())):
            for message in changed(command):
                ask(f"/api/takes/{take}/commands", message)
    for message in ("", "{", "[]", "null", "NaN", '{"do": "stop", "do": "dance"}', "[" * 100_000, '"\\ud800"'):
        ask(f"/api/takes/{takes[1]}/commands", message)
    assert studio.room.current.id == takes[1]


def test_odd_endings(ask, studio, window):
    take = window.begin(2.0)
    window.ended(take)
    for command in MAKING:
        for message in changed(command):
            if ask(f"/api/takes/{take}/commands", message) == 200:
                studio.room.stop(studio.room.current.id)
                while studio.room.current is not None:
                    time.sleep(0.01)


def test_odd_takes_exports_and_words(ask, takes):
    for message in changed(NEW):
        ask("/api/takes", message)
    for key in OFFERED:
        for value in ODD[1:]:
            ask("/api/takes", {"prompt": PROMPT, "seconds": 2.0, "settings": {key: value}})
    for part, facts in (
        ("cues", {"seconds": 1.0, "prompt": OTHER}),
        ("remember", {"take": "x", "from": 0.0, "to": 1.0}),
    ):
        for message in changed(facts):
            ask("/api/takes", {"prompt": PROMPT, "seconds": 2.0, part: [message]})
    for message in changed({"what": "cues", "from": 0.0, "to": 1.0}):
        for take in takes:
            ask(f"/api/takes/{take}/export", message)
    for message in changed({"prompt": PROMPT}):
        ask("/api/backbones/random/words", message)
        ask("/api/backbones/%00/words", message)


def test_odd_addresses(takes, window):
    places = [
        "/api/takes?search={}",
        "/api/takes/{}",
        "/api/takes/{}/drift",
        "/api/takes/{}/like?frame=0",
        "/{}",
        "/api/{}",
    ]
    for take in takes:
        whole = f"/api/takes/{take}"
        places += [f"{whole}/segments/{{}}-0.mp4", f"{whole}/segments/0-{{}}.mp4", f"{whole}/segments/{{}}"]
        places += [f"{whole}/frame/{{}}.jpg", f"{whole}/frame/0.jpg?width={{}}", f"{whole}/like?frame={{}}"]
        places += [f"{whole}/drift?embedder={{}}"]
    for place in places:
        for path in PATHS:
            answer = window.get(place.format(path))
            assert answer.status_code < 500, (place, path, answer.text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=8), inside, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_values(ask, takes, data):
    message = dict(data.draw(st.sampled_from((*COMMANDS, *MAKING, NEW))))
    for field in data.draw(st.sets(st.sampled_from(sorted(message)), min_size=1)):
        if field != "do":
            message[field] = data.draw(JSON)
    ask("/api/takes" if "do" not in message else f"/api/takes/{takes[1]}/commands", message)


def test_odd_events_are_not_heard(studio, client, window, takes):
    seconds = '{"type": "playhead", "take": "x", "seconds": NaN}'
    for text in ("", "{", "null", '{"type": "playhead"}', seconds, "x" * 20_000):
        window._open.send_text(text)
    with Window(client, studio.sessions.token) as other:
        other._open.send_bytes(b"\0\xff")  # it is closed
    window.say(type="playhead", take=takes[1], seconds=10**6)
    window.block(3)


@pytest.mark.parametrize(
    ("path", "message", "said"),
    [
        ("/api/takes", {"prompt": PROMPT}, "seconds is missing"),
        ("/api/takes", {"prompt": PROMPT, "seconds": 2.0, "colour": "red"}, "unknown field colour"),
        ("/api/takes", {"prompt": PROMPT, "seconds": -1}, "seconds is -1; it must be from 0.0625 (one frame) to"),
        ("/api/takes", {"prompt": PROMPT, "seconds": "0:1O"}, "seconds: '0:1O' is not a timecode; write 12.5, 0:12.5"),
        ("/api/takes", {"prompt": PROMPT, "seconds": "1:70"}, "seconds: '1:70' is not a timecode: 70 seconds"),
        ("/api/takes", {"prompt": "x" * 4001, "seconds": 2.0}, "prompt: it should have at most 4000 characters"),
        ("/api/takes/x/commands", {"do": "dance"}, "do is 'dance'; it must be one of direct, edit_cue,"),
    ],
)
def test_what_is_wrong_is_said_in_words(window, path, message, said):
    answer = window.client.post(path, json=message, headers=window.headers)
    assert answer.json()["error"]["message"].startswith(said)
