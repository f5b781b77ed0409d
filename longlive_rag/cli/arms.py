"""Arms of a comparison, by name or from a TOML file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from backbone.errors import FieldError
from backbone.knobs import Knob
from longlive_rag.cli.errors import in_plain_words
from longlive_rag.cli.settings import Steps, now, option_type
from longlive_rag.sessions.asking import SETTINGS

if TYPE_CHECKING:
    from eval.plan import Arm, Contrast

ARM_KEYS = {setting.knob.key: setting for setting in SETTINGS}
CONTRASTS = "contrasts"
OLD_ARM_KEYS = {knob.was.removeprefix("--"): knob.key for knob in (setting.knob for setting in SETTINGS) if knob.was}


def read_arms(text: str) -> tuple[Arm, ...]:
    """Read arms by name, or from a TOML file."""
    from eval.plan import ARMS
    from longlive_rag.documents import read_toml

    if text.endswith(".toml"):
        return tuple(_arm(name, table) for name, table in read_toml(Path(text)).items() if name != CONTRASTS)
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in ARMS]
    if unknown:
        raise ValueError(f"arm {unknown[0]!r} is unknown; known arms are {', '.join(ARMS)}; put others in a TOML file")
    return tuple(ARMS[name] for name in names)


def read_contrasts(text: str) -> tuple[Contrast, ...]:
    """Read the contrasts in a TOML file of arms; empty if there are none."""
    from eval.plan import Contrast
    from longlive_rag.documents import parse, read_toml

    tables = read_toml(Path(text)).get(CONTRASTS, []) if text.endswith(".toml") else []
    return parse(tables, tuple[Contrast, ...], f"{text}, {CONTRASTS}")


def _arm(name: str, table: Any) -> Arm:
    """Turn one table of the file, with options of `generate`, into fields of the request."""
    from eval.plan import Arm
    from longlive_rag.documents import refuse_unknown

    if not isinstance(table, dict):
        raise ValueError(f"arm {name!r} must be a table, as in [{name}]")
    changes: dict[str, dict[str, Any]] = {}
    retrieval: Any = "similar"
    named = {typed: OLD_ARM_KEYS.get(typed, typed) for typed in map(str, table)}
    refuse_unknown(named.values(), ("memory", "retrieval", *ARM_KEYS), f"arm {name!r}")
    for typed, key in named.items():
        value = table[typed]
        if key != typed:
            if key in table:
                raise ValueError(f"arm {name!r} has {key} twice, once as {typed}")
            click.echo(f"Note: {typed} of arm {name!r} {now(key)}.", err=True)
        if key == "retrieval":
            retrieval = value
        else:
            setting = ARM_KEYS[key]
            changes.setdefault(setting.part, {})[setting.knob.name] = _of_option(name, setting.knob, value)
    return Arm(name, changes, retrieval)


def _of_option(arm: str, knob: Knob, value: Any) -> Any:
    """Parse a value of the file as on the command line: a number, text such as "6-14", or a list of these."""
    kind = click.types.convert_type(option_type(knob))

    def read(part: Any) -> Any:
        between = "," if isinstance(kind, Steps) else "-"
        return kind.convert(between.join(map(str, part)) if isinstance(part, list) else str(part), None, None)

    try:
        if knob.type is bool:
            knob.check(value)
            return value
        if knob.repeats:
            return tuple(read(part) for part in (value if isinstance(value, list) else [value]))
        return read(value)
    except click.UsageError as error:
        raise ValueError(f"arm {arm!r}, {knob.key}: {in_plain_words(error.message).rstrip('.')}") from error
    except FieldError as error:
        raise ValueError(f"arm {arm!r}: {error.named({knob.name: knob.key})}") from error
