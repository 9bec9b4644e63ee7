"""Ask a question about one region: `python examples/ask_region.py IMAGE MASKS ID`."""

import sys

import numpy as np
from PIL import Image

from osprey_ros import Describer, load_image

image, masks, region = sys.argv[1:]
ids = np.array(Image.open(masks))
with Describer() as describer:
    describer.set_image(load_image(image))
    (answer,) = describer.ask((ids == int(region))[None], "What color is <mask><pos>?")
    print(answer.text)
