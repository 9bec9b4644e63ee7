"""From "coffee mug" up to "object", with the probability of each: `python examples/back_off.py IMAGE MASKS`."""

import sys

import numpy as np
from PIL import Image

from osprey_ros import Describer, load_image

image, masks = sys.argv[1:]
with Describer("home") as describer:  # nano has no tree of kinds
    describer.set_image(load_image(image))
    for d in describer.describe(np.array(Image.open(masks)), style="category"):
        chain = " < ".join(f"{kind.name} {kind.probability:.2f}" for kind in d.chain)
        print(f"{d.region_id}: {d.text} [{chain}]")
