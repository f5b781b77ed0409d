"""Make a video over the realtime socket: another prompt on the way, blocks as they are made, into realtime.mp4.

LONGLIVE_RAG_API_KEY=at-least-16-characters longlive-rag serve
LONGLIVE_RAG_API_KEY=at-least-16-characters python examples/realtime_client.py
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from websockets.sync.client import connect


def main(url: str = "ws://127.0.0.1:8161/v1/realtime/video") -> None:
    """Ask for 12 s in which a character jumps as soon as 3 s are there, and write what comes."""
    headers = {"Authorization": f"Bearer {os.environ['LONGLIVE_RAG_API_KEY']}"}
    with connect(url, additional_headers=headers) as socket, Path("realtime.mp4").open("wb") as file:
        socket.send(json.dumps({"type": "start", "prompt": "a red circle walks in a meadow", "seconds": 12, "seed": 1}))
        told = False
        for text in socket:
            message = json.loads(text)
            if message["type"] in ("init", "block"):
                file.write(socket.recv())  # what comes next is that many bytes
            print({name: value for name, value in message.items() if name != "video"})
            if message["type"] == "block" and message["seconds"] > 3 and not told:
                told = True
                socket.send(json.dumps({"type": "prompt", "prompt": "a red circle jumps in a meadow"}))
            if message["type"] in ("ended", "error"):
                break


if __name__ == "__main__":
    main(*sys.argv[1:])
