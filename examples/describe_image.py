"""Say what each object of an image is: `python examples/describe_image.py IMAGE MASKS`."""

import sys

import numpy as np
from PIL import Image

from osprey_ros import Describer, load_image

image, masks = sys.argv[1:]
with Describer() as describer:
    describer.set_image(load_image(image))
    for d in describer.describe(np.array(Image.open(masks))):
        print(f"{d.region_id}: {d.text} ({d.confidence:.2f})")
