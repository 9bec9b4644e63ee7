"""``python -m osprey_ros``: the command ``osprey``."""

from __future__ import annotations

import sys

from osprey_ros.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
