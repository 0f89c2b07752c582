"""The strategies that every node knows. Importing this package registers them."""

from smpc_fl.learning.strategies.ditto import Ditto
from smpc_fl.learning.strategies.fedavg import FedAvg, FedBN, FedProx
from smpc_fl.learning.strategies.fedsgd import FedSGD
from smpc_fl.learning.strategies.qfedavg import QFedAvg
from smpc_fl.learning.strategies.scaffold import Scaffold
from smpc_fl.learning.strategies.server_optimizers import FedAdagrad, FedAdam, FedAvgM, FedYogi

__all__ = [
    "Ditto", "FedAdagrad", "FedAdam", "FedAvg", "FedAvgM", "FedBN", "FedProx", "FedSGD", "FedYogi", "QFedAvg", "Scaffold"
]  # fmt: skip
