"""Four hospitals, 920 patients: is a heart ill?   python examples/medicine/train.py [--simulate]

The hospitals are real, and so is what makes them hard: 36 % to 93 % of their patients are ill, and each lacks other
values. The table, its public encoding and the network are those of `smpc-fl demo`.
"""

import smpc_fl as sf
from smpc_fl.nodes.demo.comparison import Task
from smpc_fl.nodes.demo.example import run_example
from smpc_fl.nodes.demo.heart import BOUND, HeartModel, load_hospitals

TASK = Task(
    title="Heart disease, 4 hospitals",
    network=HeartModel,  # logistic regression
    settings=[sf.LocalTraining(epochs=2, batch_size=32, lr=lr) for lr in (0.1, 0.03, 0.3)],
    rounds=15,
    bound=BOUND,  # the columns are standardised by secure means
    max_samples=1_000,
)


def main(arguments: list[str] | None = None) -> None:
    hospitals = load_hospitals()
    run_example(TASK, lambda number: hospitals, names={0: "healthy", 1: "ill"}, splits=10, arguments=arguments)


if __name__ == "__main__":
    main()
