"""Every logged number on disk, whichever other loggers get it too."""

import json
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from core.files import drop_cut_line, naming


class MetricsFile(Logger):
    """Appends each set of metrics as one JSON line, `images_seen` among them."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._begun = False

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if not self._begun and self.path.exists():  # now that no other process writes to it
            drop_cut_line(self.path)
        self._begun = True
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with naming(self.path), self.path.open("a") as file:
            file.write(json.dumps({k: v for k, v in metrics.items() if k != "epoch"}) + "\n")

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass
