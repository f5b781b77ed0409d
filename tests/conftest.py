"""A whole pipeline of random weights, small enough to run in a moment."""

import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan
from hypothesis import HealthCheck, settings

from backbone.transformer import CausalWanTransformer
from longlive_rag.pipeline import LongLiveRAGPipeline
from longlive_rag.tinyworld.text import TEXT_DIM, TEXT_LENGTH, new_text_encoder, new_tokenizer
from retrieval.encoder import LatentAutoencoder

# Time says nothing about a property, and machines are busy.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

TESTS = Path(__file__).parent
LONGEST = (
    "studio/test_browser.py", "eval/test_compare.py", "cli/test_kills.py", "eval/test_mutations.py", "cli/test_eval.py",
    "diagnostics/test_footprint.py", "hostile/test_fuzz.py", "takes/test_resuming.py", "eval/test_ray.py",
    "engines/test_local.py", "engines/test_ray.py", "serving/test_restart.py", "studio/test_kills.py",
    "sessions/test_several_gpus.py", "eval/test_red_team.py", "test_examples.py", "test_docs.py",
)  # fmt: skip
"""Files that take half a minute and more, the longest first."""

# A run that a shell put into the background ignores Ctrl-C, and so would every command under test.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=12, help="How many commands tests/cli/test_kills.py kills.")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where processes share the files, those that take longest are begun first, so that all processes end together."""
    if hasattr(config, "workerinput"):
        slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
        places = {TESTS / name: place for place, name in enumerate(LONGEST)}
        items.sort(key=lambda item: (places.get(item.path, len(places)), -slow[item.path]))


def random_pipeline(seed: int = 0, **preset: dict[str, Any]) -> LongLiveRAGPipeline:
    """Random weights at toy size, 32x48 pixels; `preset` is its context, sampler and memory."""
    torch.manual_seed(seed)
    tokenizer = new_tokenizer()
    return LongLiveRAGPipeline(
        transformer=CausalWanTransformer(
            num_attention_heads=2,
            attention_head_dim=24,
            num_layers=2,
            ffn_dim=96,
            freq_dim=32,
            text_dim=TEXT_DIM,
            text_length=TEXT_LENGTH,
        ).eval(),
        vae=AutoencoderKLWan(base_dim=4, z_dim=16, dim_mult=[1, 2, 2, 2], num_res_blocks=1).eval(),
        text_encoder=new_text_encoder(len(tokenizer)).eval(),
        tokenizer=tokenizer,
        encoder=LatentAutoencoder(16, 4, 6, (16,), 8).eval(),
        output={"height": 32, "width": 48, "fps": 16, "upscale": 2},
        **preset,
    )


@pytest.fixture(scope="session")
def pipe() -> LongLiveRAGPipeline:
    return random_pipeline()


@pytest.fixture(scope="session")
def pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backbones") / "random"
    random_pipeline().save_pretrained(folder)
    return folder
