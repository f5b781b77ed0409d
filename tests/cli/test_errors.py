"""Errors on the command line: fields are called by the options that set them, values stay as they were typed."""

from __future__ import annotations

import json

import click
import pytest
from click.testing import CliRunner

from backbone.errors import FieldError, Name
from longlive_rag.cli.errors import Refused, refuse_bad_input
from longlive_rag.cli.main import cli
from longlive_rag.cli.settings import FLAGS


def message_of(error: Exception) -> str:
    with pytest.raises(Refused) as refused, refuse_bad_input(FLAGS):
        raise error
    return refused.value.message


def test_fields_are_called_by_their_options():
    assert message_of(FieldError("recency_guard_frames", -1, "it must be 0 or more")) == (
        "--recency-guard is -1; it must be 0 or more"
    )
    spans = FieldError("pin", (1.0, 2.0), ("drop it or ", Name("exclude")), "1-2 s")
    assert message_of(spans) == "--pin is 1-2 s; drop it or --exclude"
    assert message_of(FieldError("label", "x", "y")) == "label is 'x'; y"  # no option sets it
    assert message_of(ValueError("window_frames is 3")) == "window_frames is 3"


def test_only_options_of_the_command_are_named():
    @click.command()
    @click.option("--window", type=int)
    def narrow(window: int) -> None:
        with refuse_bad_input(FLAGS):
            raise FieldError("window_frames", window, ("it must be above ", Name("sink_frames")))

    said = CliRunner().invoke(narrow, ["--window", "3"]).output
    assert said == "Error: --window is 3; it must be above sink_frames\n"


def test_every_flag_is_an_option_of_some_command():
    def options(command: click.Command, context: click.Context) -> set[str]:
        found = {option for param in command.params for option in param.opts}
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                part = command.get_command(context, name)
                assert part is not None
                found |= options(part, context)
        return found

    assert set(FLAGS.values()) <= options(cli, click.Context(cli))


@pytest.mark.parametrize("name", ["start_image.png", "seed is window_frames {pin}.png"])
def test_a_file_called_like_a_field_keeps_its_name(command, backbone, fake_pipeline, tmp_path, name):
    fake_pipeline()
    picture = tmp_path / "takes" / name
    arguments = ("-o", tmp_path / "take", "--backbone", backbone, "--seconds", "4", "--start-image", picture)
    result = command("generate", "a red circle walks in a meadow", *arguments)
    assert (result.code, result.err) == (2, f"Error: --start-image is {picture}, which isn't there\n")


def test_settings_of_a_preset_are_not_called_by_options(command, backbone, fake_pipeline, tmp_path):
    fake_pipeline()
    index = backbone / "model_index.json"
    content = json.loads(index.read_text())
    content["context"] = {**content.get("context", {}), "window_frames": 0}
    index.write_text(json.dumps(content))
    result = command("generate", "x", "-o", tmp_path / "take", "--backbone", backbone)
    assert result.code == 2
    assert "can't be used: window_frames is 0; it must be a whole number, 1 or more" in result.err
