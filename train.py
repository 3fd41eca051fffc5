"""Train a prior and watch its recovery: python train.py fit --config configs/demo.yaml

The same command again resumes: newest checkpoint, same W&B run. See docs/train.md.
"""

import logging
import os
import sys
import warnings
from pathlib import Path

from cli.configs import Mistake
from cli.help import show_help
from core.stopping import Stopped, Unfinished

HELP = Path(__file__).parent / "training" / "help.txt"
LAUNCHER = "lightning_fabric.strategies.launchers.subprocess_script"


def main(arguments: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments:
        sys.exit(__doc__)
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter")  # ours, merged
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # of torch, inside Lightning
    warnings.filterwarnings("ignore", message=".*have no `validation_step`")  # GANs: no likelihood
    warnings.filterwarnings("ignore", message=".*run with no optimizer")  # a closed form
    warnings.filterwarnings("ignore", message=".*Kernel Inception Distance.*buffer")
    try:
        show_help(arguments, HELP.read_text)
        from training.cli import Train  # here: --help need not wait for Lightning

        logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
        logging.getLogger("pytorch_lightning.profilers").setLevel(logging.INFO)  # their reports
        logging.getLogger(LAUNCHER).setLevel(logging.INFO)  # which process died, before all end
        Train(arguments)
    except Stopped as stopped:
        sys.exit(stopped.status)
    except Unfinished as unfinished:
        if os.environ.get("INVERTIBLE_PRIORS_TRACEBACK"):
            raise
        print(unfinished, file=sys.stderr)
        sys.exit(unfinished.status)
    except (ValueError, OSError, FloatingPointError, ImportError) as error:
        if os.environ.get("INVERTIBLE_PRIORS_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        if not isinstance(error, Mistake):  # which says all there is to know
            print("(INVERTIBLE_PRIORS_TRACEBACK=1 shows where it came from)", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
