"""The log of a node: records of this package's loggers, and throttling by cause."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import pytest
from rclpy.impl.logging_severity import LoggingSeverity
from rclpy.logging import get_logger

from osprey_ros.ros.logs import LIBRARY, RosLogHandler, ThrottledLog

SOURCE = logging.getLogger("osprey_ros.some.module")


@pytest.fixture
def handler() -> Iterator[RosLogHandler]:
    library = logging.getLogger(LIBRARY)
    level = library.level
    handler = RosLogHandler(get_logger("forwarded"))
    handler.install()
    yield handler
    handler.close()
    library.setLevel(level)


def test_records_keep_their_severity(handler: RosLogHandler, capfd: pytest.CaptureFixture[str]) -> None:
    SOURCE.info("loaded %d files", 3)
    SOURCE.warning("little memory")
    try:
        raise ValueError("too long")
    except ValueError:
        SOURCE.exception("broken")
    SOURCE.critical("the end")
    SOURCE.debug("not shown")
    logging.getLogger("another.library").error("not ours")
    output = "".join(capfd.readouterr())
    lines = [line for line in output.splitlines() if "[forwarded]" in line]
    assert [line.split("]")[0].strip("[").strip() for line in lines] == ["INFO", "WARN", "ERROR", "FATAL"]
    assert lines[0].endswith("loaded 3 files")
    assert "ValueError: too long" in output
    assert "not shown" not in output
    assert "not ours" not in output


def test_the_level_of_the_node_counts_and_threads_may_log(
    handler: RosLogHandler, capfd: pytest.CaptureFixture[str]
) -> None:
    logger = get_logger("forwarded")
    logger.set_level(LoggingSeverity.DEBUG)
    try:
        thread = threading.Thread(target=SOURCE.debug, args=("from a thread",))
        thread.start()
        thread.join()
    finally:
        logger.set_level(LoggingSeverity.UNSET)
    handler.close()
    SOURCE.error("after the end")
    output = "".join(capfd.readouterr())
    assert "from a thread" in output
    assert "after the end" not in output


def test_each_cause_is_logged_at_once_and_then_rarely(capfd: pytest.CaptureFixture[str]) -> None:
    log = ThrottledLog("throttled")
    for number in range(5):
        log.error("size", f"the image is {number} pixels wide")
        log.error("encoding", f"encoding {number} is not supported")
        log.warning("empty", f"frame {number} is empty")
    lines = [line.split("]: ")[1] for line in "".join(capfd.readouterr()).splitlines() if "[throttled]" in line]
    assert lines == ["the image is 0 pixels wide", "encoding 0 is not supported", "frame 0 is empty"]
