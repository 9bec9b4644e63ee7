"""Complaints in the log: by kind, whatever numbers are in them."""

from __future__ import annotations

from osprey_ros.ros.complaints import REPEAT, Complaints


class Log:
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def error(self, text: str) -> None:
        self.lines.append(("error", text))

    def warning(self, text: str) -> None:
        self.lines.append(("warning", text))


def test_a_kind_is_logged_at_once_and_then_now_and_then() -> None:
    log, now = Log(), [100.0]
    complaints = Complaints(log, clock=lambda: now[0])  # type: ignore[arg-type]
    for number in range(10):
        complaints.say("size", f"the picture is {number} pixels wide")
        complaints.say("nothing", f"frame {number} is empty", serious=False)
        now[0] += REPEAT / 9
    assert log.lines == [
        ("error", "the picture is 0 pixels wide"),
        ("warning", "frame 0 is empty"),
        ("error", "the picture is 9 pixels wide (and 8 more of this kind since the last one was logged)"),
        ("warning", "frame 9 is empty (and 8 more of this kind since the last one was logged)"),
    ]
    now[0] += REPEAT
    complaints.say("size", "again")
    assert log.lines[-1] == ("error", "again")


def test_many_kinds_take_no_memory() -> None:
    log, now = Log(), [0.0]
    complaints = Complaints(log, clock=lambda: now[0])  # type: ignore[arg-type]
    for number in range(1000):
        complaints.say(str(number), "one of a thousand")
    assert len(log.lines) == 1000
    complaints.say("999", "known")
    complaints.say("0", "forgotten long ago")
    assert [text for _, text in log.lines[1000:]] == ["forgotten long ago"]
