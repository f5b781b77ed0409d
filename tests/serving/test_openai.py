"""The unchanged `openai` package makes, polls, downloads, remixes, lists and deletes videos."""

from __future__ import annotations

import asyncio
import io

import av
import openai
import pytest
from PIL import Image
from video_api import OTHER, PROMPT, SECRETS, Listening

from longlive_rag.takes.record import read_record

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # OpenAI ends its own service


def frames_of(content: bytes) -> int:
    with av.open(io.BytesIO(content)) as container:
        return sum(1 for _ in container.decode(video=0))


def picture() -> io.BytesIO:
    file = io.BytesIO()
    Image.new("RGB", (48, 32), (200, 30, 30)).save(file, "PNG")
    file.seek(0)
    file.name = "start.png"
    return file


def test_the_whole_life_of_a_video(listening: Listening) -> None:
    client = listening.client()
    video = client.videos.create_and_poll(prompt=PROMPT, seconds="2", size="96x64", model="random", poll_interval_ms=50)
    assert (video.status, video.progress, video.object, video.error) == ("completed", 100, "video", None)
    assert (video.model, video.seconds, video.size, video.prompt) == ("random", "2", "96x64", PROMPT)
    assert video.created_at <= video.completed_at
    content = client.videos.download_content(video.id).read()
    assert frames_of(content) == 32
    record = read_record(listening.api.folder(video.id))
    assert (record.request.prompt, record.request.seed, record.status) == (PROMPT, 0, "finished")
    assert record.rights is not None
    assert record.rights.license_policy == "any"
    remix = client.videos.poll(client.videos.remix(video.id, prompt=OTHER).id, poll_interval_ms=50)
    assert (remix.status, remix.remixed_from_video_id, remix.prompt) == ("completed", video.id, OTHER)
    assert client.videos.download_content(remix.id).read() != content
    assert [each.id for each in client.videos.list()] == [remix.id, video.id]
    assert [each.id for each in client.videos.list(order="asc", limit=1)] == [video.id, remix.id]  # it turns pages
    gone = client.videos.delete(video.id)
    assert (gone.id, gone.deleted, gone.object) == (video.id, True, "video.deleted")
    with pytest.raises(openai.NotFoundError):
        client.videos.retrieve(video.id)
    assert not listening.api.folder(remix.id).with_name(video.id).exists()


def test_a_picture_cues_and_settings_in_a_form(listening: Listening) -> None:
    client = listening.client()
    ours = {
        "cues": [{"seconds": 0.8, "prompt": OTHER}, {"seconds": 1.6, "prompt": PROMPT}],
        "seed": 7,
        "settings": {"context_memory_frames": 3, "memory_policy": "similar"},
    }
    video = client.videos.create_and_poll(
        prompt=PROMPT, seconds="3", input_reference=picture(), extra_body=ours, poll_interval_ms=50
    )
    assert video.status == "completed", video
    record = read_record(listening.api.folder(video.id))
    # each waits for the next block: the first has 9 frames, the others 12, at 16 a second
    assert [cue.prompt for cue in record.request.cues] == [OTHER, PROMPT]
    assert [cue.seconds for cue in record.request.cues] == [1.3125, 2.0625]
    assert (record.request.seed, record.request.context.memory_frames) == (7, 3)
    assert record.start_image is not None
    again = client.videos.poll(client.videos.remix(video.id, prompt=OTHER).id, poll_interval_ms=50)
    assert read_record(listening.api.folder(again.id)).start_image == record.start_image
    plain = client.videos.create_and_poll(
        prompt=PROMPT, seconds="3", input_reference=picture(), extra_body=ours, poll_interval_ms=50
    )
    assert client.videos.download_content(plain.id).read() == client.videos.download_content(video.id).read()


def test_errors_are_those_that_the_package_knows(listening: Listening) -> None:
    client = listening.client()
    with pytest.raises(openai.BadRequestError) as refused:
        client.videos.create(prompt=PROMPT, size="97x64")
    assert (refused.value.param, refused.value.code) == ("size", "invalid_value")
    assert "96x64" in str(refused.value)
    with pytest.raises(openai.AuthenticationError) as unknown:
        openai.OpenAI(api_key="x" * 20, base_url=f"{listening.url}/v1", max_retries=0).videos.list()
    assert unknown.value.code == "invalid_api_key"
    assert unknown.value.request_id
    with pytest.raises(openai.PermissionDeniedError):
        listening.client("viewer").videos.create(prompt=PROMPT)
    with pytest.raises(openai.RateLimitError):
        listening.client("small").videos.create(prompt=PROMPT, seconds="8")


def test_models_are_listed(listening: Listening) -> None:
    assert [model.id for model in listening.client().models.list()] == ["random"]
    assert listening.client().models.retrieve("random").object == "model"


def test_its_asynchronous_client(listening: Listening) -> None:
    async def make() -> str:
        async with openai.AsyncOpenAI(api_key=SECRETS["alice"], base_url=f"{listening.url}/v1") as client:
            video = await client.videos.create_and_poll(prompt=PROMPT, seconds="1", poll_interval_ms=50)
            return video.status

    assert asyncio.run(make()) == "completed"
