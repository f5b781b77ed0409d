"""`longlive-rag eval`, as a user types it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from eval.embedders import default_embedders
from eval.footage import find_footage
from eval.plan import ARMS, Contrast, Plan
from eval.policies import arms_of
from longlive_rag.cli.arms import read_arms, read_contrasts
from longlive_rag.presets.preset import load_preset
from tests import forked
from tests.eval.arms import DriftingPipeline, plan_of, slow_backbone
from tests.eval.clips import FPS, character, controls, write_clip

ROOT = Path(__file__).parents[2]


@pytest.fixture
def video(tmp_path) -> Path:
    return write_clip(tmp_path / "fade.mp4", controls(30.0)["fade"])


@pytest.fixture
def slow(tmp_path, monkeypatch) -> Path:
    """A backbone whose takes are drawn, loaded in place of a real one."""
    monkeypatch.setattr("longlive_rag.weights.load.load_pipeline", lambda *_: DriftingPipeline())
    return slow_backbone(tmp_path / "slow")


def test_drift_of_a_video(command, video, tmp_path):
    result = command("eval", "drift", video, "--embedders", "pixels", "-o", tmp_path / "out")
    assert result.code == 0, result.err
    words = result.out.splitlines()[1].split()
    assert words[1:3] == ["pixels", "30s"]
    assert float(words[3]) > 0.02
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "drift.html", "drift.json", "drift.csv", "curves.png", "strip.png",
    }  # fmt: skip
    page = (tmp_path / "out" / "drift.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "D(30 s) = +" in page
    assert (tmp_path / "out" / "drift.csv").read_text().count("\n") == 2


def test_names_of_videos_are_text_in_the_report(command, tmp_path):
    video = write_clip(tmp_path / "<script>alert(1) & more.mp4", character(12.0))
    assert command("eval", "drift", video, "--embedders", "pixels", "-o", tmp_path / "out").code == 0
    page = (tmp_path / "out" / "drift.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1) &amp; more.mp4: D(12 s) = " in page


def test_drift_at_the_end_of_a_file_that_nearly_reaches_the_horizon(command, tmp_path):
    video = write_clip(tmp_path / "field.mp4", controls(30.0)["fade"][:-1])
    asked = ("eval", "drift", video, "--embedders", "pixels", "--horizons", "12,30")
    result = command(*asked, "-o", tmp_path / "out")
    assert result.code == 0, result.err
    assert result.out.splitlines()[3:-1] == [f"{video}: 30 s, measured at 29.8 s"]
    assert "D(30 s, measured at 29.8 s) = +" in (tmp_path / "out" / "drift.html").read_text()
    assert json.loads((tmp_path / "out" / "drift.json").read_text())["videos"][0]["measured_at_s"] == [12.0, 29.75]
    assert ",30.0,29.75," in (tmp_path / "out" / "drift.csv").read_text()
    assert command(*asked[:-1], "31").code == 2


def test_drift_of_a_take_is_measured_by_what_its_backbone_has(command, tmp_path):
    def take(name: str, backbone: str) -> Path:
        (tmp_path / name).mkdir()
        write_clip(tmp_path / name / "video.mp4", character(12.0))
        record = json.loads((ROOT / "tests" / "takes" / "samples" / "native" / "take.json").read_text())
        record["run"]["backbone"], record["video"]["frames"] = backbone, 12 * FPS
        (tmp_path / name / "take.json").write_text(json.dumps(record))
        return tmp_path / name

    ours, theirs = take("ours", "tiny-world"), take("theirs", "models/longlive")
    result = command("eval", "drift", ours)
    assert result.code == 0, result.err
    assert "Measured by tiny-world." in result.err
    assert result.out.splitlines()[1].split()[1] == "tiny-world"
    assert "Measured by pixels." in command("eval", "drift", ours, "--embedders", "pixels").err
    assert default_embedders(find_footage(each).backbone for each in (ours, theirs)) == "dino"
    assert default_embedders([find_footage(ours / "video.mp4").backbone]) == "dino"


@pytest.mark.parametrize(("backbone", "embedders"), [("tiny-world", "tiny-world"), ("models/longlive", "dino")])
def test_a_comparison_is_measured_by_what_its_backbone_has(command, tmp_path, monkeypatch, backbone, embedders):
    plans: list[Plan] = []

    def keep(plan: Plan, *rest: object) -> SimpleNamespace:
        plans.append(plan)
        return SimpleNamespace(verdicts=[], warnings=[])

    monkeypatch.setattr("eval.compare.compare", keep)
    (tmp_path / "p.txt").write_text("a red circle walks in a meadow\n")
    asked = ("eval", "compare", "--arms", "native,memory", "--prompts", tmp_path / "p.txt", "-o", tmp_path / "run")
    result = command(*asked, "--backbone", backbone)
    assert f"  measured by {embedders}\n" in result.out
    command(*asked, "--backbone", backbone, "--embedders", "pixels")
    assert [plan.embedders for plan in plans] == [embedders, "pixels"]


@pytest.mark.slow
def test_a_first_comparison_needs_no_network(tmp_path):
    """Without a hub to ask: its address is a port on which nobody listens."""
    (tmp_path / "p.txt").write_text("a red circle walks in a meadow\n")
    words = ["--arms", "native,memory", "--prompts", "p.txt", "--horizons", "10", "-o", "runs/first", "--exploratory"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    base = [sys.executable, "-m", "longlive_rag", "eval", "compare"]
    done = subprocess.run([*base, *words], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "  measured by tiny-world\n" in done.stdout


def test_drift_of_several_as_json(command, video, tmp_path):
    freeze = write_clip(tmp_path / "freeze.mp4", character(20.0, moving=False))
    result = command("eval", "drift", video, freeze, "--horizons", "12,20", "--embedders", "pixels", "--json")
    fade, still = json.loads(result.out)
    assert fade["horizons_s"] == [12.0, 20.0]
    assert fade["drift"]["pixels"][1]["value"] > 0.01 > still["drift"]["pixels"][1]["value"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{video}", "--horizons", "30,60"], "is 30.00 s long and does not reach the horizon of 60 s"),
        (["{video}", "{short}", "--horizons", "30"], "short.mp4 is 11.00 s long and does not reach"),
        (["{video}", "--horizons", "3"], "horizon 3 s is too short"),
        (["{video}", "--horizons", "soon"], "'soon' is not a list of seconds"),
        (["{video}", "--embed-every", "0"], "--embed-every is 0"),
        (["nowhere.mp4"], "nowhere.mp4 does not exist"),
        (["{corrupt}"], "corrupt.mp4 can't be read as a video"),
        (["{video}", "--embedders", "dino=/nowhere"], "embedder's folder /nowhere does not exist"),
        (["{video}", "--embedders", "eyes"], "--embedders is 'eyes'; it must be one of clip"),
        (["{video}", "--device", "cuda:9"], "CUDA devices"),
        (["{video}", "--mapping-table", "nowhere.json"], "is not a mapping table"),
        (["{video}", "-o", "{full}"], "already exists; name a new folder"),
    ],
)
def test_drift_refuses_in_one_line(command, video, tmp_path, arguments, message):
    write_clip(tmp_path / "short.mp4", character(11.0))
    (tmp_path / "corrupt.mp4").write_bytes(video.read_bytes()[:300])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    names = {
        "video": video,
        **{name: tmp_path / f"{name}.mp4" for name in ("short", "corrupt")},
        "full": tmp_path / "full",
    }
    before = sorted(tmp_path.rglob("*"))
    embedders = [] if "--embedders" in arguments else ["--embedders", "pixels"]
    result = command("eval", "drift", *(part.format(**names) for part in arguments), *embedders)
    assert (result.code, result.out) == (2, "")
    assert message in result.err
    assert result.err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_damaged_video_writes_nothing(command, video, tmp_path):
    data = bytearray(video.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 1500] = bytes(1500)
    video.write_bytes(data)
    result = command("eval", "drift", video, "--embedders", "pixels", "-o", tmp_path / "out")
    assert result.code == 2
    assert "is damaged" in result.err
    assert not (tmp_path / "out").exists()


def compare_arguments(slow: Path, tmp_path: Path) -> list[object]:
    (tmp_path / "p.txt").write_text("a red square walks\na red square quietly jumps\n")
    return [
        "eval", "compare", "--arms", "native,memory", "--prompts", tmp_path / "p.txt", "--horizons", "10,20",
        "--embedders", "pixels", "--backbone", slow, "--device", "cpu", "-o", tmp_path / "run", "--exploratory",
    ]  # fmt: skip


def test_compare(command, slow, tmp_path):
    result = command(*compare_arguments(slow, tmp_path))
    assert result.code == 0, result.err
    assert "has never read quietly" in result.err
    assert "2 prompts are too few for an interval" in result.out
    assert (tmp_path / "run" / "report.html").exists()
    again = command("eval", "compare", "--plan", tmp_path / "run" / "plan.json", "-o", tmp_path / "again", "--json")
    results = json.loads(again.out)
    first = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["comparisons"] == first["comparisons"]
    both = command("eval", "compare", "--plan", tmp_path / "run" / "plan.json", "--seeds", 3, "-o", tmp_path / "x")
    assert (both.code, "drop --seeds" in both.err) == (2, True)
    other = command(*compare_arguments(slow, tmp_path), "--seeds", 2)
    assert (other.code, "holds another comparison (seeds differ)" in other.err) == (2, True)


def test_compare_stopped_says_how_to_go_on(command, slow, tmp_path, monkeypatch):
    pipe = DriftingPipeline(fail_after=1, error=KeyboardInterrupt())
    monkeypatch.setattr("longlive_rag.weights.load.load_pipeline", lambda *_: pipe)
    result = command(*compare_arguments(slow, tmp_path))
    assert result.code == 130
    assert "Stopped; 1 of 4 takes" in result.err
    assert "The same command resumes it." in result.err
    assert not (tmp_path / "run" / "report.html").exists()
    pipe.fail_after = 10**9
    resumed = command(*compare_arguments(slow, tmp_path))
    assert resumed.code == 0
    assert re.search(r"1/4 \[00:00<\?", resumed.err), "what was there already says nothing of the time that is left"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--seeds", "0"], "--seeds is 0; it must be from 1 to 10000"),
        (["--arms", "native"], "--arms is native; it must be two or more"),
        (["--arms", "native,magic"], "arm 'magic' is unknown; known arms are native, memory"),
        (["--prompts", "nowhere.txt"], "nowhere.txt can't be read"),
        (["--scenario", "long-stare"], "scenario 'long-stare' needs its words by name"),
        (["--embedders", "dino=/nowhere"], "embedder's folder /nowhere does not exist"),
        (["--workers", "0"], "--workers is 0"),
        (["--address", "auto"], "--address is for engine ray only; add --engine ray"),
        (["--backbone", "nowhere"], "backbone 'nowhere' is neither a known name"),
        (["--embed-every", "5"], "--embed-every is 5; it must be at most 4, since a take has 4 frames per second"),
        (["--prompts", "{files}/null.json"], "cues of prompt 001: it is null; it should be a valid array"),
        (["--prompts", "{files}/flat.json"], "cues of prompt 001: [0] is 8; it should be a valid array"),
        (["--prompts", "{files}/short.json"], "cues of prompt 001: [0][1] is missing"),
        (["--prompts", "{files}/object.json"], "cues of prompt 001: it is an object; it should be a valid array"),
        (
            ["--scenarios-file", "{files}/words.json"],
            "words.json: a.cues[0].before_horizon is '9'; it should be a valid number",
        ),
        (["--scenarios-file", "{files}/nocues.json"], "nocues.json: a.cues is null; it should be"),
        (["--arms", "{files}/text.toml"], "arm 'native': memory is 'false'; it must be true or false"),
        (["--arms", "{files}/half.toml"], "arm 'k', memory-frames: '3.5' is not a whole number"),
        (["--arms", "{files}/true.toml"], "arm 'k', memory-frames: 'True' is not a whole number"),
        (["--output", "{files}/null.json"], "exists but does not hold a comparison"),
        (["--output", "{files}/null.json/run"], "null.json is a file"),
    ],
)
def test_compare_refuses_in_one_line(command, slow, tmp_path, changes, message):
    write_nonsense(tmp_path)
    changes = [part.replace("{files}", str(tmp_path)) for part in changes]
    result = command(*compare_arguments(slow, tmp_path), *changes)
    assert (result.code, result.out) == (2, "")
    assert message in result.err
    assert result.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "lacking"),
    [
        ([], "--arms and --prompts must be given, as in --arms native,memory --prompts prompts.txt; or --plan FILE"),
        (["--arms", "native,memory"], "Error: --prompts must be given"),
        (["--prompts", "prompts.txt"], "Error: --arms must be given"),
    ],
)
def test_compare_says_what_it_lacks(command, tmp_path, given, lacking):
    result = command("eval", "compare", "-o", tmp_path / "run", *given)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert lacking in result.err


def write_nonsense(folder: Path) -> None:
    """Prompts, scenarios and arms that can't be."""
    for name, cues in (("null", None), ("flat", [8, "x"]), ("short", [[8]]), ("object", {"10": "x"})):
        (folder / f"{name}.json").write_text(json.dumps([{"prompt": "a red square walks", "cues": cues}]))
    cue = {"before_horizon": "9", "prompt": "x"}
    (folder / "words.json").write_text(json.dumps({"a": {"prompt": "x", "cues": [cue]}}))
    (folder / "nocues.json").write_text(json.dumps({"a": {"prompt": "x", "cues": None}}))
    (folder / "text.toml").write_text('[native]\nmemory = "false"\n[k]\n')
    (folder / "half.toml").write_text("[native]\nmemory = false\n[k]\nmemory-frames = 3.5\n")
    (folder / "true.toml").write_text("[native]\nmemory = false\n[k]\nmemory-frames = true\n")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stories": []}, "stories is empty; a comparison needs one prompt or more"),
        ({"embedders": None}, "embedders is null; it should be a valid string"),
        (
            {"arms": [{"name": "a", "changes": []}, {"name": "b"}]},
            "arms[0].changes is a list; it should be an object",
        ),
        ({"backbone_id": "0000"}, "was made with weights 0000 of"),
    ],
)
def test_plans_that_can_not_be_are_refused_in_one_line(command, slow, tmp_path, changes, message):
    content = {**plan_of(slow, prompts=1, seeds=1).as_dict(), **changes}
    (tmp_path / "plan.json").write_text(json.dumps(content))
    result = command("eval", "compare", "--plan", tmp_path / "plan.json", "-o", tmp_path / "run")
    assert (result.code, result.out) == (2, "")
    assert message in result.err
    assert result.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_arms_of_a_file(tmp_path):
    path = tmp_path / "arms.toml"
    path.write_text('[native]\nmemory = false\n[k3]\nmemory-frames = 3\nrope = "relative"\n[r]\nretrieval = "random"\n')
    native, k3, random = read_arms(str(path))
    assert native == ARMS["native"]
    assert k3.changes == {"context": {"memory_frames": 3, "rope": "relative"}}
    assert random.retrieval == "random"
    path.write_text('[a]\nanchor = "6-14"\npin = ["2-3", "6-8"]\npage-host-gib = "512MiB"\nadmit-above = 0.9\n')
    changes = {"anchor": (6.0, 14.0), "pin": ((2.0, 3.0), (6.0, 8.0)), "host_gib": 0.5, "admit_above": 0.9}
    assert read_arms(str(path))[0].changes == {"memory": changes}
    path.write_text('[number]\nnew-view = 0.9\n[steps]\nnew-view = "steps"\n')
    assert [arm.changes["memory"]["new_view"] for arm in read_arms(str(path))] == [0.9, "steps"]
    path.write_text('[a]\nnew-view = "leaps"\n')
    with pytest.raises(ValueError, match="arm 'a', new-view: 'leaps' is neither a number nor 'steps'"):
        read_arms(str(path))
    path.write_text('[a]\nanchor = "6 to 14"\n')
    with pytest.raises(ValueError, match=r"arm 'a', anchor: '6 to 14' is not a span of seconds such as 2-3\.5"):
        read_arms(str(path))
    path.write_text("[k3]\nmemory_frames = 3\n")
    with pytest.raises(ValueError, match=r"arm 'k3': memory_frames is not known; did you mean 'memory-frames'\?"):
        read_arms(str(path))


def test_contrasts_of_a_file(tmp_path):
    path = tmp_path / "arms.toml"
    arms = '[native]\nmemory = false\n[a]\nmemory-frames = 3\n[b]\nretrieval = "random"\n'
    path.write_text(arms + '[[contrasts]]\narm = "a"\nagainst = "b"\nconfirmatory = true\n')
    assert [arm.name for arm in read_arms(str(path))] == ["native", "a", "b"]
    assert read_contrasts(str(path)) == (Contrast("a", "b", True),)
    path.write_text(arms)
    assert read_contrasts(str(path)) == ()
    path.write_text(arms + '[[contrasts]]\narm = "a"\nagianst = "b"\n')
    with pytest.raises(ValueError, match="did you mean 'against'"):
        read_contrasts(str(path))


def test_old_names_in_a_file_of_arms_work_with_a_note(tmp_path, capsys):
    path = tmp_path / "arms.toml"
    path.write_text('[a]\nmemory-host-gib = "512MiB"\n')
    assert read_arms(str(path))[0].changes == {"memory": {"host_gib": 0.5}}
    said = "Note: memory-host-gib of arm 'a' is now page-host-gib; the old name works for one more release.\n"
    assert capsys.readouterr().err == said
    path.write_text('[a]\nmemory-host-gib = "512MiB"\npage-host-gib = 1\n')
    with pytest.raises(ValueError, match="arm 'a' has page-host-gib twice, once as memory-host-gib"):
        read_arms(str(path))
    path.write_text('[a]\npage-host-gib = "512MiB"\n')
    assert read_arms(str(path))[0].changes == {"memory": {"host_gib": 0.5}}
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_processes_make_the_same_takes(pipeline_folder, tmp_path):
    """Real random weights, one worker and two: the same figures, bit for bit."""
    (tmp_path / "p.txt").write_text("a red circle walks\na blue square jumps\n")
    options = (
        "--arms native,memory --prompts p.txt --horizons 10 --embedders pixels --threads 1 --exploratory --backbone"
    )
    base = ["eval", "compare", *options.split(), pipeline_folder]
    for run, more in (("one", []), ("two", ["--workers", "2"])):
        done = forked.run([*base, "-o", run, *more], tmp_path)
        assert done.returncode == 0, done.stderr
    one, two = ((tmp_path / run / "takes.csv").read_bytes() for run in ("one", "two"))
    assert one == two


SUBJECT = {"id": "square", "who": "a blue square", "does": "walks", "where": "in a desert"}


@pytest.mark.slow
def test_policies_are_compared_between_no_memory_and_a_perfect_one(command, tmp_path):
    prompts = tmp_path / "subjects.json"
    prompts.write_text(json.dumps([SUBJECT]))
    told = command(
        "eval", "policies", "similar,establishing+look-ahead", "--prompts", prompts, "--stories", "long-stare",
        "--horizons", "12", "--exploratory", "--embed-every", "4", "--upscale", "1", "-o", tmp_path / "run",
    )  # fmt: skip
    assert told.code == 0, told.err
    rows = [line.split("|")[1].strip() for line in told.out.splitlines() if line.startswith("|")]
    assert rows[2:] == ["native", "similar", "establishing-look-ahead", "opening", "oracle"]
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    memory = {arm["name"]: arm["changes"].get("memory") for arm in plan["arms"]}
    assert memory["similar"] == {"policy": "similar", "establish": 0.0, "like_words": 0.0}
    assert memory["establishing-look-ahead"] == {"policy": "look-ahead", "establish": 8.0}
    assert memory["native"] == {"enabled": False}


def test_policies_without_the_gate_choose_from_all_of_the_past():
    """Whatever the preset keeps out of memory by looks, or doesn't bring back because of its words."""
    preset = load_preset("tiny-world")
    assert preset.memory.establish
    assert preset.memory.like_words
    by_name = {arm.name: arm.changes.get("memory") for arm in arms_of(["random", "establishing+random"], preset, False)}
    assert by_name["random"] == {"policy": "random", "establish": 0.0, "like_words": 0.0}
    assert by_name["establishing-random"] == {"policy": "random", "establish": preset.memory.establish}


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("best", "policy is 'best'"),
        ("closing+similar", "only establishing can come before the plus"),
        ("similar,similar", "once"),
    ],
)
def test_policies_that_are_none_are_refused(command, tmp_path, names, said):
    prompts = tmp_path / "subjects.json"
    prompts.write_text(json.dumps([SUBJECT]))
    told = command("eval", "policies", names, "--prompts", prompts, "--stories", "long-stare", "-o", tmp_path / "run")
    assert told.code == 2
    assert said in told.err
    assert not (tmp_path / "run").exists()
