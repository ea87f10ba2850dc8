"""Fixtures that every part of the suite uses, and the choice of what runs again on SQLite."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog

from tests.cast import cast
from vault import env

__all__ = ["cast"]

# A test touches the database when one of pytest-django's own fixtures is behind any that it asks for.
DATABASE_FIXTURES = {
    "db",
    "transactional_db",
    "django_db_reset_sequences",
    "django_db_serialized_rollback",
    "live_server",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --database-only."""
    parser.addoption(
        "--database-only", action="store_true", help="run only the tests that touch the database"
    )


def touches_database(item: pytest.Item) -> bool:
    """Tell whether a test uses the database, by mark or through any fixture."""
    if item.get_closest_marker("django_db") is not None:
        return True
    return not DATABASE_FIXTURES.isdisjoint(getattr(item, "fixturenames", ()))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what does not touch the database, when asked to."""
    if not config.getoption("--database-only"):
        return
    left_out = [item for item in items if not touches_database(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if touches_database(item)]


def pytest_collection_finish(session: pytest.Session) -> None:
    """Have Python's collector leave alone what lives to the end, and come less often: a tenth of the suite's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


@pytest.fixture(autouse=True)
def _clean_process() -> Iterator[None]:
    """Forget what a test may leave in the process: cached answers, bound log fields."""
    from django.core.cache import cache

    cache.clear()
    structlog.contextvars.clear_contextvars()
    yield
    structlog.contextvars.clear_contextvars()


@pytest.fixture
def set_environ(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that sets KEYSTEAD_ settings for this test (None unsets); all others are unset."""
    import os

    for name in [name for name in os.environ if name.startswith("KEYSTEAD_") and name != "KEYSTEAD_DATA_DIR"]:
        monkeypatch.delenv(name)

    def set_them(**values: str | None) -> None:
        for short, value in values.items():
            name = f"KEYSTEAD_{short}"
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)

    return set_them


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a data folder of this test's own, mode 0700, to which KEYSTEAD_DATA_DIR points."""
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("KEYSTEAD_DATA_DIR", str(folder))
    assert env.data_dir() == folder
    return folder


@pytest.fixture(autouse=True)
def _no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the checks not know which command runs, as in a fresh process."""
    from vault import checks

    monkeypatch.setattr(checks, "command", None)
