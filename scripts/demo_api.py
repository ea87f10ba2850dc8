"""Keystead's REST API as a program uses it, and the demo's way of saying what it saw."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

OPERATION_S = 20.0


class Deviation(Exception):
    """Something was seen that should not be; the demo ends with this and a status that is not zero."""


def require(condition: bool, what: str) -> None:
    """Raise Deviation unless `condition` holds."""
    if not condition:
        raise Deviation(what)


class Api:
    """One person signed in at /api/v1."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client = httpx.Client(base_url=f"{url}/api/v1/", timeout=15.0, trust_env=False)
        self.me: dict[str, Any] = {}

    def close(self) -> None:
        """Close the connection; the session stays."""
        self._client.close()

    def session_headers(self) -> dict[str, str]:
        """Return the headers that make a request of another client this person's."""
        cookies = "; ".join(f"{name}={value}" for name, value in self._client.cookies.items())
        return {"Cookie": cookies, "X-CSRFToken": self._client.headers["X-CSRFToken"]}

    def sign_in(self, email: str, password: str) -> dict[str, Any]:
        """Begin a session; return who one is."""
        return self._remember(self.post("auth/sign-in", email=email, password=password))

    def set_password(self, current: str, new: str) -> dict[str, Any]:
        """Replace a (one-time) password."""
        return self._remember(self.post("auth/password", current_password=current, new_password=new))

    def get(self, path: str, **query: str) -> Any:
        """GET; return the body."""
        return self._answer(self._client.get(path, params=query))

    def post(self, path: str, **body: Any) -> Any:
        """POST; return the body."""
        return self._answer(self._client.post(path, json=body))

    def post_at(self, revision: int, path: str, **body: Any) -> Any:
        """POST a change of what is at this revision; return the body."""
        return self._answer(self._client.post(path, json=body, headers={"If-Match": f'"{revision}"'}))

    def refusal(self, path: str, **body: Any) -> dict[str, Any]:
        """POST something that must be refused; return the problem. Raises Deviation when it is not."""
        answer = self._client.post(path, json=body)
        require(
            answer.status_code >= 400, f"POST {path} was accepted ({answer.status_code}), but must be refused"
        )
        problem: dict[str, Any] = answer.json()
        return problem

    def wait(self, operation: dict[str, Any] | None) -> dict[str, Any]:
        """Wait for an Operation's end; return it. Raises Deviation unless it succeeded."""
        if operation is None:
            raise Deviation("there should have been an Operation, but there was none")
        limit = time.monotonic() + OPERATION_S
        while operation["state"] in ("WAITING", "RUNNING"):
            require(
                time.monotonic() < limit,
                f"{operation['kind']} did not end within {OPERATION_S:.0f} s: {operation}",
            )
            time.sleep(0.05)
            operation = dict(self.get(f"operations/{operation['id']}"))
        error = operation["error"] or {}
        told = f"{operation['kind']} ended {operation['state']}: {error.get('cause', '')} {error.get('cure', '')}"
        require(operation["state"] == "SUCCEEDED", told)
        return operation

    def _remember(self, me: dict[str, Any]) -> dict[str, Any]:
        self.me = me
        self._client.headers["X-CSRFToken"] = me["csrf_token"]
        return me

    def _answer(self, answer: httpx.Response) -> Any:
        request = answer.request
        if answer.status_code >= 400:
            raise Deviation(
                f"{request.method} {request.url.path} answered {answer.status_code}: {answer.text[:600]}"
            )
        return answer.json() if answer.content else None


class Teller:
    """Prints each step with what was seen and how long it took."""

    def __init__(self) -> None:
        self._number = 0
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Tell of one step."""
        self._number += 1
        print(f"\n{self._number:2}. {title}", flush=True)
        began = time.monotonic()
        yield
        print(f"      ({time.monotonic() - began:.2f} s)", flush=True)

    def saw(self, text: str) -> None:
        """Tell what was seen."""
        print(f"      {text}", flush=True)
