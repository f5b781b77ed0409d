"""The `longlive-rag` command: find a subcommand and run it. A subcommand's module is imported only when it is used."""

from __future__ import annotations

import signal
import sys
import threading
from importlib import import_module

import click

from longlive_rag.cli.errors import FAILED, KINDS, STOPPED, Stopped, in_plain_words, in_words_of, one_line
from longlive_rag.cli.output import safe_output
from longlive_rag.version import __version__

COMMANDS = {
    "generate": "Make a take: a video from a prompt, with memory.",
    "direct": "Direct a take while it is made.",
    "studio": "Direct takes in a browser.",
    "serve": "Serve videos over an OpenAI-compatible API.",
    "mcp": "Offer takes as tools to an assistant (MCP).",
    "resume": "Finish a take that was stopped or killed.",
    "extend": "Make a take longer.",
    "branch": "Give a take another ending, in a new take.",
    "take": "Inspect, export and repair takes on disk.",
    "library": "List takes, and find frames in them.",
    "plan": "Work out the GPU memory, host memory and disk that a take needs.",
    "train": "Train the retrieval encoder.",
    "verify": "Replay golden trajectories and compare.",
    "eval": "Measure identity drift, and compare arms.",
    "bench": "Measure speed and memory, stage by stage.",
    "footprint": "Measure peak memory over takes of growing length.",
    "models": "List, fetch, convert and check backbones.",
    "license": "Record and report the terms of weights.",
    "plugins": "List installed policies, embedders, metrics and layouts.",
    "doctor": "Check this machine and what it can run.",
    "world": "Render, train and evaluate tiny-world.",
}

AGAIN_S = 0.05


class LazyGroup(click.Group):
    """A group whose commands live in modules of the same name, imported on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = getattr(import_module(f"longlive_rag.cli.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        _name_values(command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _name_values(command: click.Command) -> None:
    """Let the help of a command and its subcommands say N and X for numbers, as the tables in docs/ do."""
    for param in command.params:
        if isinstance(param, click.Option) and not param.is_flag and param.metavar is None and param.nargs == 1:
            param.metavar = KINDS.get(param.type.name, (None,))[0]
    for inner in command.commands.values() if isinstance(command, click.Group) else ():
        _name_values(inner)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="longlive-rag")
def cli() -> None:
    """Long videos from autoregressive models that remember what they have shown.

    \b
    Make a first take, on any laptop:
      longlive-rag generate "a red circle walks in a meadow" -o takes/first
    Get help on a command:
      longlive-rag generate --help
    """


def main() -> None:
    """Run the command line; an early exit prints one line on stderr and sets the exit code."""
    before, sys.unraisablehook = sys.unraisablehook, _interrupt_again
    try:
        with safe_output():
            code = _run()
    finally:
        sys.unraisablehook = before
    sys.exit(code)


def _interrupt_again(lost: sys.UnraisableHookArgs) -> None:
    """Deliver Ctrl-C again if it came where Python ignores exceptions, such as in a callback during an import."""
    if not issubclass(lost.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(lost)
        return
    main_thread = threading.main_thread().ident
    assert main_thread is not None
    threading.Timer(AGAIN_S, signal.pthread_kill, (main_thread, signal.SIGINT)).start()


def _typed() -> click.Context:
    """The context of the command that was typed, for errors that don't say theirs."""
    command: click.Command = cli
    context = click.Context(command, info_name="longlive-rag")
    for word in sys.argv[1:]:
        found = command.get_command(context, word) if isinstance(command, click.Group) else None
        if found is None:
            break
        context, command = click.Context(found, parent=context, info_name=word), found
    return context


def _run() -> int:
    """Run a command and return its exit code."""
    try:
        code = cli.main(prog_name="longlive-rag", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return error.exit_code
    except click.UsageError as error:
        command = (error.ctx or _typed()).command_path
        message = in_plain_words(one_line(error.format_message())).rstrip(".")
        stop = "" if message.endswith("?") else "."
        click.echo(f"Error: {message}{stop} Try '{command} --help'.", err=True)
        return error.exit_code
    except Stopped as error:
        click.echo(error.format_message(), err=True)
        return error.exit_code
    except click.ClickException as error:
        click.echo(f"Error: {error.format_message()}", err=True)
        return error.exit_code
    except OSError as error:
        click.echo(f"Error: {one_line(in_words_of(error))}", err=True)
        return FAILED
    except MemoryError:
        click.echo("Error: out of memory", err=True)
        return FAILED
    except click.Abort:
        click.echo("Stopped; nothing was written.", err=True)
        return STOPPED
    return code if isinstance(code, int) else 0
