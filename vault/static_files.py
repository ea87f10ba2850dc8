"""Static files, compressed once by the process that serves them.

They are served from where packages keep them (no collecting step), so there are no compressed copies on disk. Pages
themselves are never compressed: a page may hold a secret beside text that somebody else chose (BREACH).
"""

from __future__ import annotations

import gzip
from functools import lru_cache
from typing import Any, ClassVar, Final

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils.cache import patch_vary_headers
from whitenoise.middleware import WhiteNoiseMiddleware

_TEXT: Final = ("text/", "image/svg+xml", "application/javascript", "application/json")
_MOST_FILES: Final = 256


class CompressedStaticMiddleware(WhiteNoiseMiddleware):  # type: ignore[misc]
    """WhiteNoise that sends text gzipped (RFC 9110, 8.4.1.3) to whoever accepts it."""

    _found: ClassVar[dict[str, Any]] = {}

    def add_files_from_finders(self) -> None:
        """Look for the packages' files once a process: they do not change, and each test client makes a handler."""
        if not self._found:
            super().add_files_from_finders()
            self._found.update(self.files)
        self.files.update(self._found)

    @staticmethod
    def serve(static_file: Any, request: HttpRequest) -> HttpResponseBase:
        """Answer with a static file."""
        _, path, headers = static_file.alternatives[-1]
        kept = dict(headers)
        is_whole = request.method == "GET" and "Range" not in request.headers
        if (
            not is_whole
            or not kept.get("Content-Type", "").startswith(_TEXT)
            or not _accepts_gzip(request)
            or static_file.is_not_modified(request.META)
        ):
            response: HttpResponseBase = WhiteNoiseMiddleware.serve(static_file, request)
            patch_vary_headers(response, ("Accept-Encoding",))
            return response
        # One ETag for both forms, as WhiteNoise has it for its own: it knows no weak ones when it is asked again.
        kept.update({"Content-Encoding": "gzip", "Vary": "Accept-Encoding"})
        body = _compressed(path, static_file.etag)
        return HttpResponse(body, headers={**kept, "Content-Length": str(len(body))})


def _accepts_gzip(request: HttpRequest) -> bool:
    """Tell whether Accept-Encoding names gzip, and not with a quality of nothing."""
    for part in request.headers.get("Accept-Encoding", "").lower().split(","):
        coding, _, quality = part.partition(";")
        if coding.strip() == "gzip":
            return quality.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


@lru_cache(maxsize=_MOST_FILES)
def _compressed(path: str, etag: str) -> bytes:
    """Return the file as it was when it had this tag."""
    with open(path, "rb") as file:
        return gzip.compress(file.read(), compresslevel=9, mtime=0)
