"""What the process uses of the machine."""
