"""A worker inside an ASGI application, such as one of FastAPI or Starlette. Needs no package."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from embedkq.worker import Worker

Lifespan = Callable[[Any], AbstractAsyncContextManager[Any]]


def lifespan(worker: Worker, inner: Lifespan | None = None) -> Lifespan:
    """A lifespan that runs a worker for as long as the application lives.

        app = FastAPI(lifespan=embedkq.asgi.lifespan(worker))

    The application's event loop owns the worker and runs its callbacks, which may be `async def`.
    If Kafka is away when the application starts, the application serves all the same: the worker is
    unhealthy and keeps trying. When the application ends, running jobs get `stop_timeout` seconds.

    Args:
        worker: not started yet. One worker serves one application, once.
        inner: the application's own lifespan. The worker starts after it and stops before it, so
            callbacks can use what it sets up.
    """

    @asynccontextmanager
    async def running(app: Any) -> AsyncGenerator[Any, None]:
        if inner is None:
            async with _started(worker):
                yield
        else:
            async with inner(app) as state, _started(worker):
                yield state

    return running


@asynccontextmanager
async def _started(worker: Worker) -> AsyncGenerator[None, None]:
    worker.start_background(wait=False)
    try:
        yield
    finally:
        await worker.astop()
