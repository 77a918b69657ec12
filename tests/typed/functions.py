"""Jobs for `right_calls.py` and `wrong_calls.py`."""

from __future__ import annotations

from embedkq import Queue

queue = Queue(topic="typed")


def add(a: int, b: int) -> int:
    return a + b


def resize(path: str, width: int = 80, *, sharp: bool = False) -> str:
    return f"{path} {width} {sharp}"


def tick() -> None:
    pass


async def fetch(url: str) -> bytes:
    return url.encode()


@queue.job
def mail(to: str, text: str = "") -> bool:
    return bool(to + text)


@queue.job(timeout=5)
async def crawl(url: str, depth: int = 1) -> list[str]:
    return [url] * depth
