"""A web page to click in: open an image, get masks and words, ask questions, compare bundles, download the results."""
