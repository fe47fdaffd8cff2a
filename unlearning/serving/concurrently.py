"""Work done by several threads at once, of which an interrupt or an error leaves nothing behind.

An executor joins its threads before the interpreter may exit, so that Ctrl-C waits for every
request on its way. These threads are daemons and look at ``stop`` instead: the caller goes on at
once, and what they are busy with is dropped.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def concurrently(
    work: Callable[[Item, threading.Event], Result], items: Sequence[Item], workers: int
) -> Iterator[tuple[Item, Result]]:
    """Each item with ``work(item, stop)``, in the order in which they are done.

    Args:
        work: waits, where it has to, by ``stop.wait(seconds)``, and gives up once ``stop`` is set.
        items: started in order, at most ``workers`` at a time.

    Raises:
        BaseException: the first that ``work`` raised; nothing is started after it.
    """
    waiting: queue.SimpleQueue[Item] = queue.SimpleQueue()
    finished: queue.SimpleQueue[tuple[Item, Result] | BaseException] = queue.SimpleQueue()
    stop = threading.Event()
    for item in items:
        waiting.put(item)

    def worker() -> None:
        while not stop.is_set():
            try:
                item = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                finished.put((item, work(item, stop)))
            except BaseException as error:
                stop.set()
                finished.put(error)

    for _ in range(min(workers, len(items))):
        threading.Thread(target=worker, daemon=True).start()
    try:
        for _ in items:
            result = finished.get()
            if isinstance(result, BaseException):
                raise result
            yield result
    finally:
        stop.set()
