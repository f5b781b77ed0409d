"""`longlive-rag mcp`: offer takes as tools to an assistant."""

from __future__ import annotations

from pathlib import Path

import click

from longlive_rag.cli.errors import refuse_bad_input
from longlive_rag.cli.servers import needing, takes_option
from longlive_rag.cli.settings import BACKBONE, DEVICE, DTYPE, FLAGS, POLICY
from longlive_rag.sessions.opening import DType


@click.command()
@takes_option("Folder of takes; nothing outside it is read or written.")
@BACKBONE
@DTYPE
@DEVICE
@POLICY
def mcp(takes: Path, backbone: str, dtype: DType, device: str, license_policy: str | None) -> None:
    """Serve takes as tools of the Model Context Protocol (MCP), over standard input and output.

    The tools are make, extend, branch, search, compare and export. The assistant's client starts this command, which
    exits when its input is closed.

    \b
    Example, for a client's list of servers:
      {"longlive-rag": {"command": "longlive-rag", "args": ["mcp", "--takes", "/data/takes"]}}
    """
    with needing("mcp"):
        from longlive_rag.serving.mcp_server import build_server
    from longlive_rag.serving.tools import Tools
    from longlive_rag.sessions.opening import Opening
    from longlive_rag.takes.folder import check_folder_writable

    with refuse_bad_input(FLAGS):
        check_folder_writable(takes)
        tools = Tools(takes, backbone, Opening(device, dtype), license_policy)
        takes.mkdir(parents=True, exist_ok=True)
    build_server(tools).run("stdio")
