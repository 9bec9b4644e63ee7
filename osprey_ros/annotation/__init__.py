"""Describe many inputs: images, data sets, videos and recordings, by several processes, resumable."""
