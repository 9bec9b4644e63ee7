"""Image files, preprocessing and the image encoder."""
