"""Print words while they are decoded: `python examples/stream.py IMAGE MASKS ID`."""

import sys

import numpy as np
from PIL import Image

from osprey_ros import Describer, load_image

image, masks, region = sys.argv[1:]
ids = np.array(Image.open(masks))
with Describer() as describer:
    describer.set_image(load_image(image))
    for update in describer.stream((ids == int(region))[None], "What is <mask><pos>?"):
        print(update.text, "(end)" if update.ended else "...", flush=True)
