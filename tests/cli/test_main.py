"""The command line's frame: help, lazy commands, one line for each error."""

from __future__ import annotations

import subprocess
import sys

import pytest

from longlive_rag.cli.main import COMMANDS
from longlive_rag.version import __version__


def test_help_lists_every_command(command):
    result = command("--help")
    assert result.code == 0
    assert all(name in result.out for name in COMMANDS)


def test_version(command):
    assert __version__ in command("--version").out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generat"], "No such command 'generat'. Try 'longlive-rag --help'."),
        (["generate", "-o", "y"], "PROMPT is missing; describe what to show, or add --cues FILE"),
        (["generate", "x"], "Missing option '-o' / '--output'. Try 'longlive-rag generate --help'."),
        (["generate", "x", "-o", "y", "--wndow", "3"], "--wndow"),
        (["generate", "x", "-o", "y", "--seconds", "long"], "'long' is not a valid float"),
        (
            ["generate", "x", "-o", "y", "--steps", "1000;500"],
            "not a list of whole numbers such as",
        ),
        (["generate", "x", "-o", "y", "--rope", "spiral"], "'spiral' is not one of 'relative', 'absolute'"),
    ],
)
def test_wrong_usage_is_one_line(command, arguments, message):
    result = command(*arguments)
    assert result.code == 2
    assert result.out == ""
    assert message in result.err
    assert result.err.startswith("Error: ")
    assert result.err.count("\n") == 1


def test_help_is_quick_and_loads_no_model_library():
    script = (
        "import sys\n"
        "from longlive_rag.cli.main import cli\n"
        "for arguments in (['--help'], ['generate', '--help']):\n"
        "    cli.main(arguments, prog_name='longlive-rag', standalone_mode=False)\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'faiss', 'av', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert 'longlive-rag generate "a red circle walks in a meadow" -o takes/first' in done.stdout


def test_public_names_are_importable():
    import longlive_rag

    for name in longlive_rag.__all__:
        assert getattr(longlive_rag, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Missing'"):
        _ = longlive_rag.Missing


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("world assemble -o {full}", "exists and is not a pipeline folder; name a new one"),
        ("world assemble -o {full}/notes.txt", "exists and is not a pipeline folder"),
        ("world render walk -o {full}/no/x.png", "can't be written: its folder does not exist"),
        ("world oracle --json {full}/no/x.json", "can't be written: its folder does not exist"),
        ("world evaluate vae --json {full}", "can't be written: it is a folder"),
        ("world evaluate vae --json {full}/notes.txt", "notes.txt can't be read"),
        ("footprint --seconds 1 -o {full}/no/x.png", "can't be written: its folder does not exist"),
        ("eval retrieval --json {full}/no/x.json", "can't be written: its folder does not exist"),
        ("verify --device nonsense tests/golden/rag_ae.safetensors", "--device is 'nonsense'"),
    ],
)
def test_places_that_can_not_be_are_refused_before_the_work(command, tmp_path, words, message):
    (tmp_path / "notes.txt").write_text("mine")
    result = command(*words.format(full=tmp_path).split())
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1), result.err
    assert message in result.err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert (tmp_path / "notes.txt").read_text() == "mine"
