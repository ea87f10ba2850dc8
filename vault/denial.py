"""What the REST framework falls back on when a view names no permission: nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rest_framework.permissions import BasePermission

if TYPE_CHECKING:
    # rest_framework.views itself imports this module (as the default permission).
    from rest_framework.request import Request
    from rest_framework.views import APIView


class DenyAll(BasePermission):
    """Refuses everybody, so that a view without its own permission fails closed."""

    message = "This address has no permission rule."

    def has_permission(self, request: Request, view: APIView) -> bool:
        """Return False, always."""
        return False
