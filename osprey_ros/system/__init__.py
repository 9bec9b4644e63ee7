"""Memory and other resources of the process."""
