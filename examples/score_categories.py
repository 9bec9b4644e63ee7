"""Choose among categories of your own by likelihood: `python examples/score_categories.py IMAGE MASKS mug bowl`."""

import sys

import numpy as np
from PIL import Image

from osprey_ros import Describer, load_image

image, masks, *categories = sys.argv[1:]
with Describer() as describer:
    describer.set_image(load_image(image))
    scores = describer.score(np.array(Image.open(masks)), categories)
    for region, row in zip(scores.region_ids, scores.log_likelihoods, strict=True):
        print(f"{region}: {categories[row.argmax()]} (log-likelihood {row.max():.2f})")
