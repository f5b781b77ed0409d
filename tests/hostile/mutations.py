"""Damage to files, as others' hands and bad luck do it; all of it is drawn from a `Random`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

SHORT = b"0123456789abcdef\x00\xff[]{}:,\"'\n-&*!"
BAD_TEXT = (
    "", " ", "\0", "\x1b]0;x\x07", "\ud800", "\u202e", "a\nb", "../../around/secret", "/dev/zero", "~",
    "{x.__class__}", "{who:>9999999999}", "%s%n", "-1", "nan", "1e999", "9" * 400,
    "w" * 5000, "word " * 5000, "ü" * 3000,
    "CC-BY-NC-4.0",
)  # fmt: skip
BAD_NUMBERS = (
    0, -1, 1, 2, 7, 0.5, -0.0, 1e-9, 1000, 8193, 10**6, 10**9, 2**31, 2**63, 2**64, 10**30, 1e300, float("inf"),
    float("-inf"), float("nan"),
)  # fmt: skip
NEW_KEYS = (
    "format", "quantization_config", "auto_map", "_class_name", "_name_or_path", "architectures", "torch_dtype",
    "dtype", "lora_alpha", "memory", "x", "", "\ud800", "__metadata__", "weight_map", "tie_word_embeddings",
)  # fmt: skip


def mutate_json(text: str, random: Random) -> str:
    """A JSON document in which one to three things are not what they were."""
    content = json.loads(text)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        content = _change(content, random)
    written = json.dumps(content)
    kind = random.randrange(12)
    if kind == 0:
        return _deepened(written, random)
    if kind == 1:
        return _doubled(written, random)
    if kind == 2:
        return written.replace('"', '"' * 2, 1) if random.random() < 0.5 else written[: random.randrange(len(written))]
    if kind == 3:
        return random.choice(("", "null", "[]", "5", '"x"', "\ufeff{}", "{}", '{"format": ' + "9" * 400 + "}"))
    return written


def mutate_text(text: str, random: Random) -> str:
    """Lines are lost, repeated, exchanged, or hold what they should not."""
    lines = text.split("\n")
    for _ in range(random.choice((1, 1, 2, 3))):
        at, kind = random.randrange(len(lines)), random.randrange(6)
        if kind == 0:
            del lines[at]
        elif kind == 1:
            lines.insert(at, random.choice(lines))
        elif kind == 2:
            lines.insert(at, random.choice(BAD_TEXT))
        elif kind == 3:
            words = lines[at].split(" ")
            words[random.randrange(len(words))] = random.choice((*BAD_TEXT, *map(str, BAD_NUMBERS)))
            lines[at] = " ".join(words)
        elif kind == 4:
            cut = random.randrange(len(lines[at]) + 1)
            lines[at] = lines[at][:cut] + random.choice((*'"[]{}:,&*|>-#\t', "*a", "&a ", "<<: *a")) + lines[at][cut:]
        else:
            lines = lines[:at] + [line * random.choice((1, 2)) for line in lines[at:]]
        lines = lines or [""]
    return "\n".join(lines)


def mutate_bytes(data: bytes, random: Random) -> bytes:
    """Bytes are flipped, lost, added or doubled."""
    content = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 8))):
        at, size = random.randrange(len(content) + 1), random.choice((1, 1, 4, 64, 4096))
        kind = random.randrange(6)
        if kind == 0 and content:
            content[at % len(content)] ^= 1 << random.randrange(8)
        elif kind == 1:
            del content[at : at + size]
        elif kind == 2:
            content[at:at] = bytes(random.choices(SHORT, k=size))
        elif kind == 3:
            content[at : at + size] = bytes(min(size, len(content) - at))
        elif kind == 4:
            content[at:at] = content[at : at + size]
        else:
            del content[at:]
    return bytes(content)


def mutate_header(data: bytes, random: Random) -> bytes:
    """A safetensors file whose header says something else about the same bytes."""
    length = int.from_bytes(data[:8], "little")
    header = mutate_json(data[8 : 8 + length].decode(), random).encode("utf-8", "surrogatepass")
    size = random.choice((len(header),) * 8 + (0, 2**40, 2**63))
    return size.to_bytes(8, "little") + header + data[8 + length :]


def replace_file(path: Path, random: Random) -> str:
    """Put something else where a file was; returns what."""
    kinds: dict[str, Callable[[], object]] = {
        "a pipe": lambda: os.mkfifo(path),
        "a folder": path.mkdir,
        "a link to another file": lambda: path.symlink_to(Path("../../around/secret").resolve()),
        "a link to itself": lambda: path.symlink_to(path),
        "a link to a device": lambda: path.symlink_to("/dev/zero"),
        "nothing": lambda: None,
        "an empty file": path.touch,
        "zeros": lambda: path.write_bytes(bytes(3000)),
    }
    name = random.choice(list(kinds))
    path.unlink()
    kinds[name]()
    return name


def _change(content: Any, random: Random) -> Any:
    ways = places(content)
    if not ways:
        return content
    way = random.choice(ways)
    part = content
    for key in way[:-1]:
        part = part[key]
    last, kind = way[-1], random.randrange(10)
    if kind == 0:
        del part[last]
    elif kind == 1 and isinstance(part, dict):
        part[random.choice((f"{last}x", last.upper(), f" {last}", last[1:]))] = part.pop(last)
    elif kind == 2 and isinstance(part, dict):
        part[random.choice(NEW_KEYS)] = _value(random)
    elif kind == 3:
        other = content
        for key in random.choice(ways):
            other = other[key]
        part[last] = json.loads(json.dumps(other))
    elif kind == 4 and isinstance(part[last], int | float) and not isinstance(part[last], bool):
        part[last] = part[last] * random.choice((-1, 0, 2, 3, 0.5, 1000, 10**9))
    elif kind == 5:
        part[last] = random.choice((str(part[last]), [part[last]], {"x": part[last]}, None, True))
    elif kind == 6 and isinstance(part[last], list):
        part[last] = random.choice((part[last][:-1], part[last] * 2, part[last] * 1000, part[last][::-1]))
    else:
        part[last] = _value(random)
    return content


def _value(random: Random) -> Any:
    plain: tuple[Any, ...] = (None, True, False, [], {}, [[]], {"x": 1}, [0] * 10_000, nested(90))
    return random.choice(random.choice((BAD_TEXT, BAD_NUMBERS, plain)))


def nested(depth: int) -> list[Any]:
    """Lists in lists."""
    return [nested(depth - 1)] if depth else []


def _deepened(text: str, random: Random) -> str:
    depth = random.choice((500, 100_000))
    return text.replace(":", ": " + random.choice(("[", '{"a":')) * depth, 1)


def _doubled(text: str, random: Random) -> str:
    """A first key twice."""
    key, colon, _ = text.partition(":")
    return text if not colon else text[:1] + f"{key[1:]}: {json.dumps(random.choice(BAD_NUMBERS))}, " + text[1:]


def places(part: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The ways to all values inside plain data."""
    inside = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
    return [found for key, each in inside for found in ((*way, key), *places(each, (*way, key)))]
