"""What captions light up in images, by every model that is on this machine. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cosmos_eval.gallery._drafts import Draft
from cosmos_eval.gallery._parts import Answers, Drafted, Need, Part, model_of, name_of, spread
from cosmos_eval.gallery._pictures import Canvas
from cosmos_eval.gallery._records import AttentionExample
from cosmos_eval.types import MapKind, OnProgress, ResultRow

if TYPE_CHECKING:
    from cosmos_eval.encoder import Encoder
