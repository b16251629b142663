# SPDX-License-Identifier: Apache-2.0
"""Images as vectors: any picture becomes 8x8 grey values between 0 and 16."""
import io

import numpy as np
from PIL import Image

SIDE = 8


def vector(data: bytes) -> np.ndarray:
    """Decodes a picture into SIDE*SIDE numbers, shape (64,), 0..16."""
    image = Image.open(io.BytesIO(data)).convert("L")
    if image.size != (SIDE, SIDE):
        image = image.resize((SIDE, SIDE))
    return np.asarray(image, dtype=np.float64).reshape(-1) / 15.0
