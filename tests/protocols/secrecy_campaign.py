"""The long form of `test_share_secrecy`, for `scripts/secrecy`: every coalition of two and of three aggregators, learners of
several kinds, 10^5 held-out reports each, and the planted weak shares. Prints a table; fails when a weakness is not found,
or anything else is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from sharings import Bits, Draw, Weakness, balanced, bits, linear, p_value, samples, summary, weaknesses

BATCH = 5_000
PLANTED = 5_000
"""Reports of a weak share: enough to find it."""

Learner = Callable[[NDArray[np.float32], NDArray[np.int8]], Callable[[NDArray[np.float32]], NDArray[np.floating]]]


def ridge(x: NDArray[np.float32], labels: NDArray[np.int8]) -> Callable[[NDArray[np.float32]], NDArray[np.floating]]:
    weights = linear(x[:BATCH], labels[:BATCH])
    return lambda seen: seen @ weights


def logistic(x: NDArray[np.float32], labels: NDArray[np.int8]) -> Callable[[NDArray[np.float32]], NDArray[np.floating]]:
    from sklearn.linear_model import SGDClassifier

    return SGDClassifier(loss="log_loss", random_state=1).fit(x, labels).decision_function  # type: ignore[no-any-return]


def boosting(x: NDArray[np.float32], labels: NDArray[np.int8]) -> Callable[[NDArray[np.float32]], NDArray[np.floating]]:
    from sklearn.ensemble import HistGradientBoostingClassifier

    model = HistGradientBoostingClassifier(max_iter=60, max_leaf_nodes=15, random_state=1).fit(x, labels)
    return model.decision_function  # type: ignore[no-any-return]


LEARNERS: list[tuple[str, Callable[[Bits], NDArray[np.float32]], Learner]] = [
    ("every bit, ridge", bits, ridge),
    ("every bit, logistic", bits, logistic),
    ("summaries, boosting", summary, boosting),
]


def p_values(
    held_out: int, aggregators: int, weak: Weakness | None = None, draw: Callable[[int], Draw] = Draw
) -> Iterator[tuple[str, str, float]]:
    """(coalition, learner, p)."""
    count = 2 * held_out
    labels = balanced(count, seed=100 + aggregators)
    source = draw(100 + aggregators)
    parts = []
    for start in range(0, count, BATCH):
        parts.append(samples(labels[start : start + BATCH], aggregators, source, weak))
        print(f"\r{min(start + BATCH, count):,} of {count:,} reports", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    for coalition in parts[0]:
        seen = np.concatenate([part[coalition] for part in parts])
        learn, test = seen[:held_out], seen[held_out:]
        for name, features, learner in LEARNERS:
            # As many as memory holds as floats; what is held out goes through in pieces.
            some = min(held_out, 20_000 if features is bits else held_out)
            model = learner(features(learn[:some]), labels[:some])
            scores = np.concatenate([model(features(test[at : at + BATCH])) for at in range(0, held_out, BATCH)])
            yield " + ".join(coalition), name, p_value(scores, labels[held_out:], 9_999)


def main(held_out: int) -> int:
    good = True
    print(f"{'aggregators':<12}{'coalition':<30}{'learner':<24}{'p':>10}")
    for aggregators in (2, 3):
        for coalition, name, p in p_values(held_out, aggregators):
            good &= p > 1e-3
            print(f"{aggregators:<12}{coalition:<30}{name:<24}{p:>10.4f}{'' if p > 1e-3 else '   TOLD'}", flush=True)
    for what, weak, draw in weaknesses():
        told = [(name, p) for of, name, p in p_values(PLANTED, 2, weak, draw) if of == "aggregator-0"]
        least = min(told, key=lambda each: each[1])
        good &= least[1] < 1e-6
        print(
            f"{2:<12}{'planted: ' + what:<30}{least[0]:<24}{least[1]:>10.1e}{'' if least[1] < 1e-6 else '   MISSED'}",
            flush=True,
        )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
