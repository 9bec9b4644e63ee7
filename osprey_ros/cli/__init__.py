"""The command line ``osprey``: one file a command."""
