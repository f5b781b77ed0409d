"""The command line's frame: help, lazy commands, one line for each error."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator

import click
import pytest

from longlive_rag.cli import main as cli_main
from longlive_rag.cli.errors import check_writable
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
        (["generate", "x", "-o", "y", "--prompt-weight", "much"], "'much' is not a number. Try"),
        (["generate", "x", "-o", "y", "--seconds", "long"], "--seconds: 'long' is not a timecode"),
        (["generate", "x", "-o", "y", "--window", "1.5"], "'1.5' is not a whole number. Try 'longlive-rag generate"),
        (["serve", "--port", "abc"], "'abc' is not a whole number. Try 'longlive-rag serve"),
        (["generate", "x", "-o"], "requires an argument. Try 'longlive-rag generate --help'."),
        (["eval", "drift", "x", "-o"], "requires an argument. Try 'longlive-rag eval drift --help'."),
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
        ("world assemble --run {full} --begin-with tiny-world -o {full}/new", "holds nothing trained"),
        ("world render walk -o {full}/no/x.png", "can't be written: its folder does not exist"),
        ("world oracle -o {full}/no/x.json", "can't be written: its folder does not exist"),
        ("world evaluate vae -o {full}", "can't be written: it is a folder"),
        ("world evaluate vae -o {full}/notes.txt", "notes.txt can't be read"),
        ("footprint --seconds 1 -o {full}/no/x.png", "can't be written: its folder does not exist"),
        ("plan --host-gib -8", "Invalid value for '--host-gib': '-8' is not a size above 0. Try 'longlive-rag plan"),
        ("plan --gpu-gib 0", "Invalid value for '--gpu-gib': '0' is not a size above 0. Try 'longlive-rag plan"),
        ("serve --api-key at-least-16-characters --takes {full}/notes.txt", "notes.txt is a file; it must be a folder"),
        ("studio --no-browser --takes {full}/notes.txt", "notes.txt is a file; it must be a folder"),
        ("mcp --takes {full}/notes.txt", "notes.txt is a file; it must be a folder"),
        ("serve --api-key short", "--api-key has 5 characters; it must have 16 or more, all printable ASCII"),
        ("eval publish {full}/none -o {full}/x", "none is not a comparison: it does not exist"),
        ("eval publish {full} -o {full}/x", "is not a comparison: it has no plan.json"),
        ("eval recompute {full}/notes.txt", "notes.txt is not a comparison: it is a file"),
        ("eval retrieval -o {full}/no/x.json", "can't be written: its folder does not exist"),
        ("verify --device nonsense tests/golden/rag_ae.safetensors", "--device is 'nonsense'"),
        ("bench --compare nonsense", "--compare is 'nonsense'; name each of native,memory,"),
    ],
)
def test_places_that_can_not_be_are_refused_before_the_work(command, tmp_path, words, message):
    (tmp_path / "notes.txt").write_text("mine")
    result = command(*words.format(full=tmp_path).split())
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1), result.err
    assert message in result.err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_folder_that_is_read_only_is_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: (path, mode) != (tmp_path, os.W_OK))
    with pytest.raises(ValueError, match=r"x\.png can't be written: its folder is read-only"):
        check_writable(tmp_path / "x.png")
    (tmp_path / "open").mkdir()
    check_writable(tmp_path / "open" / "x.png")


def test_an_error_of_the_system_is_one_line(command, monkeypatch):
    def fail():
        raise OSError(errno.EROFS, "Read-only file system", "runs/x")

    monkeypatch.setattr(cli_main.cli, "main", lambda **_: fail())
    result = command("doctor")
    assert (result.code, result.out, result.err) == (1, "", "Error: Read-only file system: runs/x\n")


def test_ctrl_c_where_python_ignores_it_is_not_lost(monkeypatch, capfd):
    class Ignoring:
        def __del__(self):
            raise KeyboardInterrupt

    def work():
        lost = Ignoring()
        del lost
        time.sleep(30)

    before = sys.unraisablehook
    monkeypatch.setattr(cli_main.cli, "main", lambda **_: work())
    begin_s = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        cli_main.main()
    assert time.monotonic() - begin_s < 20
    assert sys.unraisablehook is before
    assert capfd.readouterr().err == ""


def commands_of(command: click.Command, context: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    """All commands and groups below a group, with their contexts."""
    for name in command.list_commands(context) if isinstance(command, click.Group) else ():
        inner = command.get_command(context, name)
        assert inner is not None
        below = click.Context(inner, parent=context, info_name=name)
        yield inner, below
        yield from commands_of(inner, below)


def every_command() -> Iterator[tuple[click.Command, click.Context]]:
    return commands_of(cli_main.cli, click.Context(cli_main.cli, info_name="longlive-rag"))


def test_every_command_has_an_example():
    lacking = [
        context.command_path
        for command, context in every_command()
        if not re.search(rf"{context.command_path}( |$)|\"args\": \[\"{context.info_name}\"", command.help or "", re.M)
    ]
    assert lacking == []


def test_every_option_says_what_it_is_and_its_default_in_one_way():
    seen = 0
    for command, context in every_command():
        for option in (each for each in command.params if isinstance(each, click.Option) and not each.hidden):
            seen += 1
            flag = f"{context.command_path} {option.opts[0]}"
            assert option.help, flag
            elsewhere = re.sub(r"  \[default: [^\]]+\]$", "", option.help)
            assert not re.search("[Dd]efault:", elsewhere), f"{flag}: {option.help}"
    assert seen > 300


def test_help_names_numbers_as_the_documents_do():
    for command, context in every_command():
        shown = command.get_help(context)
        assert not re.search(r"--\S+ (INTEGER|FLOAT)", shown), context.command_path


def test_groups_list_their_commands_in_whole_sentences():
    groups = [(command, context) for command, context in every_command() if isinstance(command, click.Group)]
    assert len(groups) >= 7
    for command, context in groups:
        listed = click.Context(command, parent=context.parent, info_name=context.info_name, terminal_width=80)
        assert "..." not in command.get_help(listed).split("Commands:")[1], context.command_path
