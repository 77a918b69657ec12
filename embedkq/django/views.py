"""A view for load balancers and monitoring."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, JsonResponse

from embedkq.django import worker


def health(request: HttpRequest) -> Any:
    """What the health of this process's worker is, as JSON: status 200 if it is healthy, otherwise
    503."""
    now = worker().health()
    return JsonResponse(now.as_dict(), status=200 if now.healthy else 503)
