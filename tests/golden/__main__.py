"""Rewrite the golden loss curves: python -m tests.golden"""

import logging
import tempfile
import warnings
from pathlib import Path

import torch

from tests.golden import CURVES, FOLDER, train, write

logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
warnings.filterwarnings("ignore")
torch.set_num_threads(1)
for name in CURVES:
    with tempfile.TemporaryDirectory() as folder:
        write(name, train(name, Path(folder)))
    print(FOLDER / f"{name}.txt")
