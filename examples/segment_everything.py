"""Find the masks of everything in an image: `python examples/segment_everything.py IMAGE`."""

import sys

from osprey_ros import Segmenter, load_image

with Segmenter() as segmenter:
    segmenter.set_image(load_image(sys.argv[1]))
    segments = segmenter.segment_everything()
    for region, score in zip(segments.ids, segments.scores, strict=True):
        print(f"{region}: predicted IoU {score:.2f}")
