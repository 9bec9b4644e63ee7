"""Forwarding of Python's ``logging`` to the logger of a node."""

from __future__ import annotations

import logging

from rclpy.impl.logging_severity import LoggingSeverity
from rclpy.impl.rcutils_logger import RcutilsLogger

LIBRARY = "osprey_ros"  # parent of all loggers of this package


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
