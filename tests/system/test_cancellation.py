"""Cancellation tokens: deadlines, parents, callbacks, threads."""

from __future__ import annotations

import signal
import threading

import pytest

from osprey_ros.errors import InputError, StoppedError
from osprey_ros.system.cancellation import CancellationToken, PolledToken
from osprey_ros.system.exclusive import ExclusiveUse


def test_a_token_is_canceled_once_and_for_all() -> None:
    token, called = CancellationToken(), []
    remove = token.add_callback(lambda: called.append("removed"))
    token.add_callback(lambda: called.append("kept"))
    remove()
    assert not token.canceled
    token.check("the work")
    token.cancel()
    token.cancel()
    assert token.canceled
    assert called == ["kept"]
    token.add_callback(lambda: called.append("late"))
    assert called == ["kept", "late"]
    with pytest.raises(StoppedError, match="the work was canceled"):
        token.check("the work")


def test_a_deadline_cancels_without_callbacks() -> None:
    now, called = [0.0], []
    token = CancellationToken(deadline=2.0, clock=lambda: now[0])
    token.add_callback(lambda: called.append(0))
    assert not token.canceled
    now[0] = 2.0
    assert token.canceled
    assert called == []


def test_a_parent_cancels_its_children_and_not_the_other_way_round() -> None:
    parent, called = CancellationToken(), []
    first, second = CancellationToken(parent=parent), CancellationToken(parent=parent)
    first.add_callback(lambda: called.append("first"))
    remove = second.add_callback(lambda: called.append("second"))
    remove()
    second.cancel()
    assert (second.canceled, parent.canceled, first.canceled) == (True, False, False)
    parent.cancel()
    assert first.canceled
    assert called == ["first"]


def test_a_polled_token_asks_and_can_be_canceled() -> None:
    answers = iter([False, True])
    token = PolledToken(lambda: next(answers))
    assert not token.canceled
    assert token.canceled
    other = PolledToken(lambda: False)
    other.cancel()
    assert other.canceled


def test_a_callback_is_called_whichever_thread_comes_first() -> None:
    for _ in range(200):
        token, called = CancellationToken(), threading.Event()
        thread = threading.Thread(target=token.cancel)
        thread.start()
        token.add_callback(called.set)
        thread.join()
        assert called.is_set()


def test_a_signal_handler_may_cancel() -> None:
    token = CancellationToken()
    before = signal.signal(signal.SIGINT, lambda *_: token.cancel())
    try:
        with token._lock:  # as in the middle of a method
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert token.canceled


def test_exclusive_use_names_the_thread_that_has_it() -> None:
    use, inside, go = ExclusiveUse("oven"), threading.Event(), threading.Event()

    def work() -> None:
        with use:
            inside.set()
            go.wait(timeout=60)

    thread = threading.Thread(target=work, name="baker")
    thread.start()
    assert inside.wait(timeout=60)
    with pytest.raises(InputError, match="the oven is in use in the thread 'baker'"), use:
        pass
    go.set()
    thread.join()
    with use, pytest.raises(InputError, match="within one of its own calls"), use:
        pass
    use.close()
    with pytest.raises(InputError, match="the oven is closed"), use:
        pass
