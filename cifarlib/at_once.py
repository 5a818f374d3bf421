"""One function, called several times at once, each time in a process of its own.

A network of CIFAR-10's size leaves most of a large GPU idle; a few trainings together fill it.
On a CPU one training keeps all cores busy, and nothing is gained. Not for one training on
several devices (`training`, ``num_devices``), nor for searches, which share a journal (`tuning`).
"""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any


def each(
    function: Callable[..., Any],
    calls: Sequence[tuple],
    num_jobs: int = 1,
    check: Callable[[], None] = lambda: None,
) -> Iterator[tuple[int, Any, Exception | None]]:
    """Call a function with each of several tuples of arguments.

    Who stops asking, or is interrupted, waits for the calls that have begun; no other begins.

    Args:
        function: of a module; its arguments and what it returns go from process to process.
        calls: the arguments of each call, begun in this order.
        num_jobs: calls at once, at least one. One is made in this process.
        check: called in this process before each call is begun; if it raises, that is what the
            call raised, and no process is started for it.

    Yields:
        As soon as a call has ended, its place among ``calls``, what it returned, and what it
        raised instead, or None. The others go on, even if a process was killed.
    """
    if num_jobs == 1:
        for place, arguments in enumerate(calls):
            try:
                check()
                yield place, function(*arguments), None
            except Exception as error:  # told to whoever asked, who may want the others
                yield place, None, error
        return
    leave_room()
    with futures.ThreadPoolExecutor(num_jobs) as threads:
        places = {
            threads.submit(_in_a_process, function, arguments, check): place
            for place, arguments in enumerate(calls)
        }
        try:
            for ended in futures.as_completed(places):
                error = ended.exception()
                yield places[ended], None if error else ended.result(), error
        finally:
            threads.shutdown(wait=False, cancel_futures=True)


def leave_room() -> None:
    """Let this process, and those that it starts, take of a GPU's memory what they need only.

    Else the first one takes all of it. It is read when a backend starts, so who computes anything
    before it calls `each` says so beforehand. What the environment says otherwise stays.
    """
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def _in_a_process(function: Callable[..., Any], arguments: tuple, check: Callable[[], None]) -> Any:
    """Call it in a process that ends with it, and takes along its memory and what it broke."""
    check()
    context = multiprocessing.get_context("spawn")  # Keras's backends do not survive a fork
    # A pool each, since a process that is killed takes all calls of its pool with it.
    with futures.ProcessPoolExecutor(1, context) as pool:
        return pool.submit(function, *arguments).result()
