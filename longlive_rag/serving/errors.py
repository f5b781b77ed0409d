"""Turns exceptions into the errors that clients see."""

from __future__ import annotations

import errno

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from backbone.errors import FieldError
from longlive_rag.documents import dotted
from longlive_rag.engines.engine import QueueFullError, UnknownSessionError
from longlive_rag.rights.policy import LicenseError
from longlive_rag.serving.asking import PARAMS
from longlive_rag.serving.guard import ApiError
from longlive_rag.serving.limits import OverQuotaError
from longlive_rag.serving.making import NotReadyError, UnknownVideoError
from longlive_rag.sessions.asking import IN_SETTINGS
from longlive_rag.studio.security import names_only

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
CODES = {400: "invalid_request", 404: "not_found", 405: "method_not_allowed", 413: "request_too_large"}
QUEUE_RETRY_S = 10.0
LONGEST_SHOWN = 60  # characters of a value that a message repeats


def as_api_error(error: Exception) -> ApiError:
    """The error that a client gets for an exception, without any path of this machine."""
    match error:
        case ApiError():
            return error
        case UnknownVideoError() | UnknownSessionError():
            return ApiError(404, "video_not_found", "there is no such video (any more)")
        case NotReadyError():
            return ApiError(409, "not_ready", str(error))
        case OverQuotaError():
            return ApiError(429, f"quota_{error.quota}", error.message, retry_s=error.retry_s)
        case QueueFullError():
            return ApiError(503, "queue_full", "too many videos are waiting", retry_s=QUEUE_RETRY_S)
        case RequestValidationError():
            return _of_validation(error, in_loc=1)  # after body, query or path
        case ValidationError():  # in a socket's message, after its type
            return _of_validation(error, in_loc=int(error.title.startswith("tagged-union")))
        case LicenseError():
            return ApiError(400, "license_policy", _without_paths(str(error)))
        case FieldError():
            inside = f"{error.where}." if error.where == IN_SETTINGS else ""
            param = PARAMS.get(error.field, f"{inside}{error.field}")
            return ApiError(400, "invalid_value", _without_paths(error.named(PARAMS)), param)
        case ValueError():
            return ApiError(400, "invalid_value", _without_paths(str(error)))
        case HTTPException():
            return ApiError(error.status_code, CODES.get(error.status_code, "refused"), str(error.detail))
        case OSError() if error.errno in NO_ROOM:
            return ApiError(503, "no_space", "the server's disk is full")
    return ApiError(500, "internal_error", "internal error; the server's log says why")


def _of_validation(error: RequestValidationError | ValidationError, in_loc: int = 0) -> ApiError:
    """The first validation error; a misspelt field is reported before the field that is missing because of it.

    Args:
        in_loc: number of leading parts of an error's location that aren't part of the message.
    """
    first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    param = dotted(first["loc"][in_loc:]) or None
    if first["type"] == "extra_forbidden":
        return ApiError(400, "unknown_field", f"unknown field {param}", param)
    if first["type"] == "missing":
        return ApiError(400, "missing_field", f"{param} is missing", param)
    wanted = str(first["msg"]).replace("Input should be", "it should be")
    if first["type"] == "string_pattern_mismatch":  # of a size
        wanted = "it should be WIDTHxHEIGHT, such as 384x384"
    given = first["input"]
    plain = isinstance(given, str | int | float) and len(str(given)) <= LONGEST_SHOWN
    claim = f"{param} is {given!r}; " if plain else f"{param}: "
    return ApiError(400, "invalid_value", f"{claim}{wanted}" if param else wanted, param)


def _without_paths(message: str) -> str:
    return " ".join(names_only(message).split())[:500]
