"""Views that enqueue."""

from __future__ import annotations

from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.urls import path

from djangoshop import jobs
from djangoshop.models import Order
from embedkq import django as kq
from embedkq.django.views import health


def order(request: HttpRequest, name: str) -> HttpResponse:
    with transaction.atomic():
        Order.objects.create(name=name)
        job = kq.queue().on_commit().enqueue(jobs.ship, name)
    return HttpResponse(job.id, status=202)


def state(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(kq.worker().state))


urlpatterns = [
    path("orders/<name>", order),
    path("state", state),
    path("health", health),
]
