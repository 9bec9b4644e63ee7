"""Log messages of the node: forwarding of Python's ``logging``, and throttling by cause."""

from __future__ import annotations

import logging

import rclpy.logging
from rclpy.clock import Clock, ClockType  # type: ignore[attr-defined]
from rclpy.impl.logging_severity import LoggingSeverity
from rclpy.impl.rcutils_logger import RcutilsLogger

LIBRARY = "osprey_ros"  # parent of all loggers of this package
PERIOD = 5.0  # seconds before the same cause is logged again


class RosLogHandler(logging.Handler):
    """Log the records of this package with a ROS logger, from any thread. Both use the same numbers for severities.

    Args:
        logger: logger of the node. Its level decides which records are shown.
    """

    def __init__(self, logger: RcutilsLogger) -> None:
        super().__init__()
        self._logger = logger

    def install(self) -> None:
        """Receive all records of this package from now on."""
        library = logging.getLogger(LIBRARY)
        library.setLevel(logging.DEBUG)
        library.addHandler(self)

    def close(self) -> None:
        """Receive no more records."""
        logging.getLogger(LIBRARY).removeHandler(self)
        super().close()

    def emit(self, record: logging.LogRecord) -> None:
        """Log one record."""
        if not self._logger.is_enabled_for(LoggingSeverity(min(record.levelno // 10 * 10, LoggingSeverity.FATAL))):
            return
        text = self.format(record)
        # rclpy requires one severity for each line of code.
        if record.levelno >= logging.CRITICAL:
            self._logger.fatal(text)
        elif record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        elif record.levelno >= logging.INFO:
            self._logger.info(text)
        else:
            self._logger.debug(text)


class ThrottledLog:
    """Log each cause at once and then at most once in a few seconds.

    rclpy throttles each line of code of each logger object: one object for each cause lets new causes through.

    Args:
        name: name of the logger.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._loggers: dict[str, RcutilsLogger] = {}  # by cause

    def error(self, cause: str, text: str) -> None:
        """Log an error."""
        self._logger(cause).error(text, throttle_duration_sec=PERIOD, throttle_time_source_type=self._clock)

    def warning(self, cause: str, text: str) -> None:
        """Log a warning."""
        self._logger(cause).warning(text, throttle_duration_sec=PERIOD, throttle_time_source_type=self._clock)

    def _logger(self, cause: str) -> RcutilsLogger:
        if cause not in self._loggers:
            self._loggers[cause] = rclpy.logging.get_logger(self._name)
        return self._loggers[cause]
