"""Readers of published data sets: each turns one file, in the layout in which users download it, into records."""
