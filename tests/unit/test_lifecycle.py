"""How a process ends."""

from __future__ import annotations

import threading
import time

import pytest

from deploy.lifecycle import Stopper, run_beside


def test_work_that_ends_by_itself_is_waited_for_and_its_error_raised() -> None:
    assert run_beside(lambda: time.sleep(0.2), Stopper(), 0.0)
    with pytest.raises(LookupError, match="no such thing"):
        run_beside(_fail, Stopper(), 0.0)


def _fail() -> None:
    raise LookupError("no such thing")


def test_work_that_does_not_hear_is_left_behind_and_only_after_its_patience() -> None:
    stop, free = Stopper(), threading.Event()
    threading.Timer(0.2, stop.ask).start()
    started = time.monotonic()
    assert not run_beside(lambda: free.wait(30) and None, stop, 0.3)
    assert 0.5 <= time.monotonic() - started < 5
    free.set()


def test_work_that_ends_when_asked_is_not_left_behind() -> None:
    stop = Stopper()
    threading.Timer(0.1, stop.ask).start()
    assert run_beside(lambda: stop.wait(30) and None, stop, 5.0)
