"""The paper's experiments, each from one command:

    python evaluate.py --config configs/evaluate/cs64.yaml [--config configs/evaluate/small.yaml]

Recovers sets x problems x methods x seeds into rows, runs studies, and writes tables, figures and
one report page. The same command again computes only what is missing. See docs/evaluation.md.
"""

import os
import sys

from cli.configs import Mistake
from evaluation.config import read_evaluation


def main(arguments: list[str] | None = None) -> None:
    if not (sys.argv[1:] if arguments is None else arguments):
        sys.exit(__doc__)
    try:
        evaluation, text = read_evaluation(arguments)
        from evaluation.run import evaluate  # here: --help and a mistake do without

        failures = evaluate(evaluation, text)
    except (ValueError, RuntimeError, OSError) as error:
        if os.environ.get("INVERTIBLE_PRIORS_TRACEBACK"):
            raise
        lines = [f"error: {error}"]
        if not isinstance(error, Mistake):  # which says all there is to know
            lines.append("(INVERTIBLE_PRIORS_TRACEBACK=1 shows where it came from)")
        sys.exit(fail(*lines))
    except KeyboardInterrupt:
        stopped = "interrupted: finished rows are kept, the same command does the rest"
        sys.exit(fail(stopped, status=130))
    if failures:
        sys.exit(fail("failed:", *(f"  {failure}" for failure in failures), status=1))


def fail(*lines: str, status: int = 2) -> int:
    print("\n".join(lines), file=sys.stderr)
    return status


if __name__ == "__main__":
    main()
