"""`longlive-rag mcp`, spoken to by the protocol's own client over a pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from longlive_rag.media.video import count_frames
from longlive_rag.presets.preset import BUILT_IN
from longlive_rag.takes.record import read_record

pytest.importorskip("mcp")

from mcp import Client, StdioServerParameters, stdio_client

ROOT = Path(__file__).parents[2]
PROMPT = "a red circle walks in a meadow"

pytestmark = pytest.mark.skipif(
    not (BUILT_IN["tiny-world"] / "model_index.json").is_file(), reason="tiny-world's weights are not here"
)


@asynccontextmanager
async def server(takes: Path) -> AsyncIterator[Client]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = ["-m", "longlive_rag", "mcp", "--takes", str(takes)]
    parameters = StdioServerParameters(command=sys.executable, args=words, env=environment, cwd=takes.parent)
    async with Client(stdio_client(parameters)) as client:
        yield client


def talk(takes: Path, work: Callable[[Client], Awaitable[None]]) -> None:
    """Start the server, work with it, end it."""

    async def session() -> None:
        with anyio.fail_after(240):
            async with server(takes) as client:
                await work(client)

    anyio.run(session)


async def said(client: Client, tool: str, **arguments: Any) -> Any:
    """What a tool gives; a list comes out of its envelope."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    found = result.structured_content
    return found["result"] if set(found) == {"result"} else found


async def refusal(client: Client, tool: str, **arguments: Any) -> str:
    result = await client.call_tool(tool, arguments)
    assert result.is_error
    (content,) = result.content
    assert "\n" not in content.text
    return str(content.text).removeprefix(f"Error executing tool {tool}: ")


@pytest.mark.slow
def test_a_take_is_made_searched_branched_compared_and_exported(tmp_path: Path) -> None:
    takes = tmp_path / "takes"
    progress: list[tuple[float, float | None]] = []

    async def tell(done: float, total: float | None, message: str | None) -> None:
        progress.append((done, total))

    async def work(client: Client) -> None:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert list(tools) == ["make", "extend", "branch", "search", "compare", "export"]
        assert tools["make"].input_schema["required"] == ["prompt", "take"]
        assert tools["search"].annotations.read_only_hint

        cues = [{"at": 1, "prompt": "a red circle jumps in a meadow"}]
        asked = {"prompt": PROMPT, "take": "set/first", "seconds": 2, "seed": 3, "cues": cues}
        result = await client.call_tool("make", asked, progress_callback=tell)
        made = result.structured_content
        assert (made["take"], made["status"], made["frames"]) == ("set/first", "finished", 32)
        assert count_frames(Path(made["video"])) == 32
        assert progress == [(9 / 16, 2.0), (21 / 16, 2.0), (2.0, 2.0)]
        record = read_record(takes / "set" / "first")
        assert (record.request.seed, len(record.cues)) == (3, 1)

        found = await said(client, "search", text="jumps", limit=1)
        assert [(hit["take"], hit["prompt"]) for hit in found] == [("set/first", cues[0]["prompt"])]
        longer = await said(client, "extend", take="set/first", seconds=8)
        assert longer["seconds"] == 10.0
        other = await said(client, "branch", take="set/first", at=3, new_take="other", prompt="a red circle sleeps")
        assert other["frames"] == 160
        assert read_record(takes / "other").branched_from is not None
        alike = await said(client, "search", like_take="other", like_second=0.5, limit=1)
        assert alike[0]["take"] == "set/first"
        assert alike[0]["similarity"] > 0.999  # the beginning is the same

        rows = await said(client, "compare", takes=["set/first", "other"], horizons=[10])
        assert [(row["take"], row["horizon_seconds"]) for row in rows] == [("set/first", 10.0), ("other", 10.0)]
        clip = await said(client, "export", take="set/first", part="video", output="out/clip.mp4", start=1, end=2)
        assert clip["path"] == str(takes / "out" / "clip.mp4")
        assert count_frames(takes / "out" / "clip.mp4") == 16

    talk(takes, work)


@pytest.mark.slow
def test_what_can_not_be_is_one_line_and_nothing_leads_outside(tmp_path: Path) -> None:
    takes, outside = tmp_path / "takes", tmp_path / "outside"
    outside.mkdir()
    takes.mkdir()
    (takes / "link").symlink_to(outside)

    async def work(client: Client) -> None:
        for name in ("../outside/x", "/etc/x", "link/x", "link", "", ".hidden", "a/../../outside/x", "a\0b"):
            assert (await refusal(client, "make", prompt=PROMPT, take=name)).startswith("take is ")
            assert (await refusal(client, "extend", take=name, seconds=1)).startswith("take is ")
        assert await refusal(client, "make", prompt=PROMPT, take="x", seconds=-1) == (
            "seconds is -1; it must be from 0.0625 (one frame) to 86400 (a day)"
        )
        assert "valid number" in await refusal(client, "make", prompt=PROMPT, take="x", seconds="long")
        assert "give either text" in await refusal(client, "search")
        assert list(takes.iterdir()) == [takes / "link"]

        await said(client, "make", prompt=PROMPT, take="first", seconds=1)
        assert "already" in await refusal(client, "make", prompt=PROMPT, take="first")
        export = {"take": "first", "part": "video"}
        assert "through a link" in await refusal(client, "export", **export, output="link/x.mp4")
        assert "must end in .mp4" in await refusal(client, "export", **export, output="x.png")
        assert "inside the take first" in await refusal(client, "export", **export, output="first/x.mp4")
        assert "drift needs at least" in await refusal(client, "compare", takes=["first"])

    talk(takes, work)
    assert list(outside.iterdir()) == []


@pytest.mark.slow
def test_a_call_that_is_cancelled_keeps_what_was_finished(tmp_path: Path) -> None:
    takes = tmp_path / "takes"

    async def work(client: Client) -> None:
        with anyio.CancelScope() as scope:

            async def stop(*_: object) -> None:
                scope.cancel()

            asked = {"prompt": PROMPT, "take": "long", "seconds": 600}
            await client.call_tool("make", asked, progress_callback=stop)
        assert (await said(client, "make", prompt=PROMPT, take="next", seconds=1))["status"] == "finished"

    talk(takes, work)
    record = read_record(takes / "long")
    assert record.status == "interrupted"
    assert 9 <= record.video.frames < 600 * 16
