"""Logging: structlog for everything, one line an event, JSON for collectors or plain text for people."""

from __future__ import annotations

import logging.config
from typing import Any

import structlog
from structlog.types import EventDict, Processor, WrappedLogger

# A last line of defence: the types that hold secrets are masked by themselves (vault.secret).
_HIDDEN = ("password", "secret", "token", "authorization", "cookie", "material", "credential", "plaintext")


def hide_secrets(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Mask the value of every field whose name speaks of a secret, whatever its type. Ids are not secret."""
    for name in event:
        lower = name.lower()
        if not lower.endswith(("_id", "_count")) and any(word in lower for word in _HIDDEN):
            event[name] = "***"
    return event


def _shared() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        hide_secrets,
    ]


def _renderer(log_format: str) -> list[Processor]:
    if log_format == "json":
        # Without the values of local variables, among which there may be keys and passwords.
        frames = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        return [structlog.processors.ExceptionRenderer(frames), structlog.processors.JSONRenderer()]
    return [structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)]


def logging_config(log_format: str, level: str) -> dict[str, Any]:
    """Return the dictConfig that sends every logger of the process through structlog to standard error.

    `log_format` is "console" or "json"; `level` one of debug, info, warning, error.
    """
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "keystead": {
                "()": structlog.stdlib.ProcessorFormatter,
                "foreign_pre_chain": _shared(),
                "processors": [
                    structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                    *_renderer(log_format),
                ],
            }
        },
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "stream": "ext://sys.stderr",
                "formatter": "keystead",
            }
        },
        "root": {"handlers": ["stderr"], "level": level.upper()},
        "loggers": {
            # Their debug and info levels print parameters, bodies and headers.
            "django.db.backends": {"level": "WARNING"},
            "botocore": {"level": "WARNING"},
            "boto3": {"level": "WARNING"},
            "urllib3": {"level": "WARNING"},
            "httpx": {"level": "WARNING"},
            "httpcore": {"level": "WARNING"},
            # The request log of vault.middleware says the same with an id and without the query string.
            "django.server": {"level": "ERROR"},
            "django.request": {"level": "ERROR"},
            # One line for every sweep, every few seconds.
            "celery.beat": {"level": "WARNING"},
            # Its info level repeats each task's arguments and return value.
            "celery.app.trace": {"level": "WARNING"},
            "celery.worker.strategy": {"level": "WARNING"},
        },
    }


def configure(log_format: str, level: str) -> None:
    """Set up logging for this process."""
    logging.config.dictConfig(logging_config(log_format, level))
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_shared(),
            structlog.processors.StackInfoRenderer(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
