"""The ComfyUI nodes, executed on tiny-world with a stand-in for what ComfyUI brings."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from longlive_rag.media.video import read_frames
from longlive_rag.presets.preset import BUILT_IN
from longlive_rag.takes.record import read_record
from longlive_rag.version import __version__

PACK = Path(__file__).parents[2] / "integrations" / "comfyui"
PROMPT = "a red circle walks in a meadow"

needs_tiny_world = pytest.mark.skipif(
    not (BUILT_IN["tiny-world"] / "model_index.json").is_file(), reason="tiny-world's weights are not here"
)


class Cancelled(Exception):
    """What ComfyUI raises from its progress bar when somebody presses Cancel."""


class Comfy:
    """What a ComfyUI would know afterwards.

    Attributes:
        progress: (done, all) of each bar's updates.
        cancel_at: raise `Cancelled` once so much is done.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.progress: list[tuple[int, int]] = []
        self.cancel_at: float = float("inf")

    def modules(self) -> dict[str, ModuleType]:
        def module(name: str, **contents: Any) -> ModuleType:
            made = ModuleType(name)
            vars(made).update(contents)
            return made

        def kind() -> SimpleNamespace:
            def given(direction: str) -> Any:
                return lambda id=None, **facts: SimpleNamespace(direction=direction, id=id, **facts)

            return SimpleNamespace(Input=given("input"), Output=given("output"))

        kinds = {name: kind() for name in ("Image", "String", "Float", "Int", "Boolean")}
        io = SimpleNamespace(
            **kinds,
            ComfyNode=type("ComfyNode", (), {}),
            Schema=lambda **facts: SimpleNamespace(**facts),
            NodeOutput=lambda *values: SimpleNamespace(args=values),
            Output=SimpleNamespace,
        )
        comfy = self

        class ProgressBar:
            def __init__(self, total: int) -> None:
                self.total = total

            def update_absolute(self, value: int) -> None:
                comfy.progress.append((value, self.total))
                if value >= comfy.cancel_at:
                    raise Cancelled

        return {
            "folder_paths": module("folder_paths", get_output_directory=lambda: str(self.output)),
            "comfy": module("comfy"),
            "comfy.utils": module("comfy.utils", ProgressBar=ProgressBar),
            "comfy_api": module("comfy_api"),
            "comfy_api.latest": module("comfy_api.latest", io=io, ComfyExtension=type("ComfyExtension", (), {})),
        }


@pytest.fixture
def comfy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Comfy:
    made = Comfy(tmp_path / "output")
    for name, module in made.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    return made


@pytest.fixture
def nodes(comfy: Comfy) -> Iterator[dict[str, Any]]:
    """The nodes by id, found as ComfyUI finds them: by the folder's __init__.py."""
    spec = importlib.util.spec_from_file_location(
        "custom_nodes_longlive_rag", PACK / "__init__.py", submodule_search_locations=[str(PACK)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)

    async def listed() -> list[Any]:
        extension = await module.comfy_entrypoint()
        found: list[Any] = await extension.get_node_list()
        return found

    yield {node.define_schema().node_id: node for node in asyncio.run(listed())}
    for name in [name for name in sys.modules if name.startswith(spec.name)]:
        del sys.modules[name]


def run(node: Any, **given: Any) -> tuple[Any, ...]:
    """What it gives where the other inputs are their defaults."""
    defaults = {each.id: each.default for each in node.define_schema().inputs if hasattr(each, "default")}
    values: tuple[Any, ...] = node.execute(**{**defaults, **given}).args
    return values


def test_every_input_is_taken_and_every_output_given(nodes: dict[str, Any]) -> None:
    import inspect

    assert set(nodes) == {"LongLiveRagMake", "LongLiveRagExtend", "LongLiveRagBranch"}
    for node in nodes.values():
        schema = node.define_schema()
        assert [each.id for each in schema.inputs] == list(inspect.signature(node.execute).parameters)
        assert [each.display_name for each in schema.outputs] == ["frames", "take", "fps"]


@needs_tiny_world
@pytest.mark.slow
def test_a_take_is_made_extended_and_branched(nodes: dict[str, Any], comfy: Comfy) -> None:
    frames, take, fps = run(nodes["LongLiveRagMake"], seconds=2.0, seed=3)
    assert take == str(comfy.output / "longlive-rag" / "take_00001")
    assert (frames.shape, frames.dtype, fps) == ((32, 384, 384, 3), torch.float32, 16.0)
    shown = np.stack(list(read_frames(Path(take) / "video.mp4", 0, 32)))
    assert torch.equal((frames * 255).round().to(torch.uint8), torch.from_numpy(shown))
    assert comfy.progress == [(9, 32), (21, 32), (32, 32)]
    assert read_record(Path(take)).request.seed == 3
    before = read_record(Path(take))

    longer, extended, _ = run(nodes["LongLiveRagExtend"], take=take, seconds=1.0, prompt="a red circle jumps")
    assert (Path(extended).name, longer.shape[0]) == ("take_00002", 48)
    assert [cue.prompt for cue in read_record(Path(extended)).cues] == ["a red circle jumps"]
    other, branch, _ = run(nodes["LongLiveRagBranch"], take=take, at=1.2, prompt="a red circle sleeps")
    assert (Path(branch).name, other.shape[0]) == ("branch_00001", 32)
    assert torch.equal(other[:21], frames[:21])
    assert not torch.equal(other[21:], frames[21:])
    assert read_record(Path(take)) == before
    assert read_record(Path(branch)).branched_from is not None


@needs_tiny_world
@pytest.mark.slow
def test_cancel_is_passed_on_and_what_was_finished_is_kept(nodes: dict[str, Any], comfy: Comfy) -> None:
    comfy.cancel_at = 21
    with pytest.raises(Cancelled):
        run(nodes["LongLiveRagMake"], seconds=600.0, memory=False)
    record = read_record(comfy.output / "longlive-rag" / "take_00001")
    assert (record.status, record.video.frames) == ("interrupted", 21)
    assert not record.request.memory.enabled


@needs_tiny_world
def test_what_can_not_be_is_refused_and_leaves_nothing(nodes: dict[str, Any], comfy: Comfy, tmp_path: Path) -> None:
    for name in ("../x", "a/b", "", ".x", "a\0"):
        with pytest.raises(ValueError, match="plain name"):
            run(nodes["LongLiveRagMake"], name=name)
    for take in (str(tmp_path), str(comfy.output / "longlive-rag" / ".." / ".." / "x"), ""):
        with pytest.raises(ValueError, match="it must be a take in"):
            run(nodes["LongLiveRagExtend"], take=take)
        with pytest.raises(ValueError, match="it must be a take in"):
            run(nodes["LongLiveRagBranch"], take=take)
    with pytest.raises(ValueError, match="is not a take"):
        run(nodes["LongLiveRagExtend"], take=str(comfy.output / "longlive-rag" / "none"))
    assert not comfy.output.exists()


def test_the_package_says_what_it_is() -> None:
    project = tomllib.loads((PACK / "pyproject.toml").read_text())["project"]
    assert (project["name"], project["license"]) == ("longlive-rag-comfyui", "Apache-2.0")
    assert project["dependencies"] == [f"longlive-rag>={__version__}"]
    assert (PACK / "LICENSE").read_text() == (PACK.parents[1] / "LICENSE").read_text()
