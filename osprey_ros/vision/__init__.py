"""From images to features: files, preprocessing and the encoders."""
