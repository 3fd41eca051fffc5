"""Training is, number for number, what it was when its curves were written."""

from pathlib import Path

import pytest

from tests.golden import CURVES, STEPS, read, train

# Of the loss, or of 1 where the loss is smaller. Measured: SSE, AVX2 and AVX-512 kernels, oneDNN or
# its absence, and 2 threads differ by at most 8e-7 in the first ten steps. Now and then a rounding
# decides the sign of a unit or of one of Adam's first steps, which later is worth up to 6e-5
# between these kernels; weights that begin 1e-6 apart differ by up to 1e-5, and later 6e-4. A
# change of numerics shows in the first ten steps: a learning rate 1% higher is worth 3e-4 or more,
# couplings in bfloat16 9e-5.
FIRST, LATER = 5e-5, 2e-3


@pytest.mark.parametrize("name", CURVES)
def test_training_follows_its_golden_curve(name: str, tmp_path: Path) -> None:
    """Where you mean to change the numerics: python -m tests.golden"""
    golden, curve = read(name), train(name, tmp_path)
    assert list(curve) == list(golden) and len(golden) == STEPS
    for step, (images_seen, losses) in enumerate(golden.items()):
        tolerance = FIRST if step < 10 else LATER
        assert curve[images_seen] == pytest.approx(losses, rel=tolerance, abs=tolerance), (
            f"{name} after {images_seen} images"
        )
