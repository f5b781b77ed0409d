"""The `longlive-rag` command: find a subcommand and run it. A subcommand's module is imported only when it is used."""

from __future__ import annotations

import sys
from importlib import import_module

import click

from longlive_rag.cli.errors import FAILED, STOPPED, Stopped, one_line
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


class LazyGroup(click.Group):
    """A group whose commands live in modules of the same name, imported on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = getattr(import_module(f"longlive_rag.cli.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


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
    with safe_output():
        code = _run()
    sys.exit(code)


def _run() -> int:
    """Run a command and return its exit code."""
    try:
        code = cli.main(prog_name="longlive-rag", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return error.exit_code
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "longlive-rag"
        message = one_line(error.format_message()).rstrip(".")
        stop = "" if message.endswith("?") else "."
        click.echo(f"Error: {message}{stop} Try '{command} --help'.", err=True)
        return error.exit_code
    except Stopped as error:
        click.echo(error.format_message(), err=True)
        return error.exit_code
    except click.ClickException as error:
        click.echo(f"Error: {error.format_message()}", err=True)
        return error.exit_code
    except MemoryError:
        click.echo("Error: out of memory", err=True)
        return FAILED
    except click.Abort:
        click.echo("Stopped; nothing was written.", err=True)
        return STOPPED
    return code if isinstance(code, int) else 0
