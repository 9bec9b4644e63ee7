"""The lifecycle node `segmenter`: masks of camera images, and words for clicks."""
