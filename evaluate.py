"""The paper's experiments, each from one command:

    python evaluate.py --config configs/evaluate/cs64.yaml [--config configs/evaluate/small.yaml]

Recovers sets x problems x methods x seeds into rows, runs studies, and writes tables, figures and
one report page. The same command again computes only what is missing. See docs/evaluation.md.
"""

import os
import sys

from evaluation.config import read_evaluation
from evaluation.run import evaluate


def main(arguments: list[str] | None = None) -> None:
    if not (sys.argv[1:] if arguments is None else arguments):
        sys.exit(__doc__)
    try:
        failures = evaluate(*read_evaluation(arguments))
    except (ValueError, RuntimeError, OSError) as error:
        if os.environ.get("INVERTIBLE_PRIORS_TRACEBACK"):
            raise
        sys.exit(fail(f"error: {error}"))
    except KeyboardInterrupt:
        sys.exit(fail("interrupted: finished rows are kept, the same command does the rest", 130))
    if failures:
        sys.exit(fail("failed:\n  " + "\n  ".join(failures), 1))


def fail(message: str, status: int = 2) -> int:
    print(message, file=sys.stderr)
    if status == 2:
        print("(INVERTIBLE_PRIORS_TRACEBACK=1 shows where it came from)", file=sys.stderr)
    return status


if __name__ == "__main__":
    main()
