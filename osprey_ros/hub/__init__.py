"""Bundles from elsewhere: download a folder, an archive or a repository of a hub into the cache."""
