"""Click on an object and read what it is: `python examples/click_to_words.py IMAGE X Y`, in pixels."""

import sys

from osprey_ros import Describer, Segmenter, load_image

image, x, y = sys.argv[1:]
rgb = load_image(image)
with Segmenter() as segmenter, Describer() as describer:
    segmenter.set_image(rgb)
    describer.set_image(rgb)
    for d in describer.describe(segmenter.segment(points=[[float(x), float(y)]])):
        print(d.text)
