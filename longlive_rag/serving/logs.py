"""Logs with one JSON object per line: requests, videos and how they ended; never secrets, prompts only on request."""

from __future__ import annotations

import datetime
import json
import logging
import sys
from typing import Any

from longlive_rag.serving.guard import Seen
from longlive_rag.serving.ledger import Entry

LOGGER = "longlive_rag.serving"
log = logging.getLogger(LOGGER)


class JsonFormatter(logging.Formatter):
    """Formats a record as a JSON object that includes what was given as `extra={"facts": ...}`."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        facts = {
            "time": at.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            facts["traceback"] = self.formatException(record.exc_info)
        return json.dumps(facts)


def log_config(level: str = "info") -> dict[str, Any]:
    """Configuration for `logging.config`: everything goes to stderr, uvicorn's lines included."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": JsonFormatter}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "stream": sys.stderr, "formatter": "json"}},
        "loggers": {
            LOGGER: {"handlers": ["stderr"], "level": level.upper(), "propagate": False},
            "uvicorn": {"handlers": ["stderr"], "level": "WARNING", "propagate": False},
        },
    }


def log_request(seen: Seen) -> None:
    """Log a request that was answered; requests for health and metrics at level `debug`."""
    scope = seen.scope
    is_probe = scope["path"] in ("/healthz", "/readyz", "/metrics")
    facts = {
        "request_id": seen.request_id,
        "key": seen.key.name if seen.key else None,
        "method": scope.get("method", "WS")[:20],
        "path": scope["path"][:200],
        "status": seen.status,
        "ms": round(1000 * seen.seconds, 1),
        "client": scope["client"][0] if scope.get("client") else None,
        **({"code": seen.code} if seen.code else {}),
    }
    log.log(logging.DEBUG if is_probe else logging.INFO, "request", extra={"facts": facts})


def log_video(event: str, entry: Entry, prompts: bool) -> None:
    """Log what happened to a video.

    Args:
        prompts: whether to include its prompt.
    """
    facts = {"video": entry.id, "key": entry.owner, "model": entry.model, "seconds": entry.seconds}
    facts |= {"seconds_made": entry.seconds_made} if entry.result else {}
    facts |= {"error": entry.error} if entry.error else {}
    facts |= {"prompt": entry.prompt} if prompts else {}
    log.info(event, extra={"facts": facts})
