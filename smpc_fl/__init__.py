"""Secure multi-party federated learning: what users type.

    import smpc_fl as sf

Everything is handed on lazily (PEP 562): importing this package, or a part of it such as `smpc_fl.protocols`, loads no
torch, no websockets and no syft before a name that needs them is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smpc_fl import statistics as stats
    from smpc_fl.errors import (
        BadInput,
        BudgetExceeded,
        IsolationRefused,
        JobNotApproved,
        PermissionDenied,
        Refused,
        RoundAborted,
        RunFailed,
        SmpcError,
        Unavailable,
    )
    from smpc_fl.frameworks.keras_models import load_keras
    from smpc_fl.jobs import AdaptiveClip, Evaluation, LocalTraining, Privacy, RecordPrivacy, Stop
    from smpc_fl.learning import partition
    from smpc_fl.learning.compression import Compression
    from smpc_fl.learning.strategies import (
        Ditto,
        FedAdagrad,
        FedAdam,
        FedAvg,
        FedAvgM,
        FedBN,
        FedProx,
        FedSGD,
        FedYogi,
        QFedAvg,
        Scaffold,
    )
    from smpc_fl.learning.strategy import register as register_strategy
    from smpc_fl.learning.update_functions import register_update
    from smpc_fl.nodes import sklearn
    from smpc_fl.nodes.client import Federation, connect
    from smpc_fl.nodes.local import LocalFederation
    from smpc_fl.nodes.plots import plot_partition
    from smpc_fl.nodes.simulation.run import simulate
    from smpc_fl.nodes.statistic_plots import plot_statistic
    from smpc_fl.nodes.training_run import Round, Run
    from smpc_fl.plans.plan import Plan
    from smpc_fl.plans.update_plan import UpdatePlan
    from smpc_fl.pointers.aggregates import OwnersMissingWarning, SaturatedWarning, secure_mean, secure_sum
    from smpc_fl.pointers.pointer import PointerTensor

_WHERE = {
    "AdaptiveClip": "jobs",
    "BadInput": "errors",
    "BudgetExceeded": "errors",
    "Compression": "learning.compression",
    "Ditto": "learning.strategies",
    "Evaluation": "jobs",
    "FedAdagrad": "learning.strategies",
    "FedAdam": "learning.strategies",
    "FedAvg": "learning.strategies",
    "FedAvgM": "learning.strategies",
    "FedBN": "learning.strategies",
    "FedProx": "learning.strategies",
    "FedSGD": "learning.strategies",
    "FedYogi": "learning.strategies",
    "Federation": "nodes.client",
    "IsolationRefused": "errors",
    "JobNotApproved": "errors",
    "LocalFederation": "nodes.local",
    "LocalTraining": "jobs",
    "OwnersMissingWarning": "pointers.aggregates",
    "PermissionDenied": "errors",
    "Plan": "plans.plan",
    "PointerTensor": "pointers.pointer",
    "Privacy": "jobs",
    "QFedAvg": "learning.strategies",
    "RecordPrivacy": "jobs",
    "Refused": "errors",
    "Round": "nodes.training_run",
    "RoundAborted": "errors",
    "Run": "nodes.training_run",
    "RunFailed": "errors",
    "SaturatedWarning": "pointers.aggregates",
    "Scaffold": "learning.strategies",
    "SmpcError": "errors",
    "Stop": "jobs",
    "Unavailable": "errors",
    "UpdatePlan": "plans.update_plan",
    "connect": "nodes.client",
    "load_keras": "frameworks.keras_models",
    "partition": "learning.partition",
    "plot_partition": "nodes.plots",
    "plot_statistic": "nodes.statistic_plots",
    "register_strategy": "learning.strategy",
    "register_update": "learning.update_functions",
    "secure_mean": "pointers.aggregates",
    "secure_sum": "pointers.aggregates",
    "simulate": "nodes.simulation.run",
    "sklearn": "nodes.sklearn",
    "stats": "statistics",
}
_MODULES = {"partition", "sklearn", "stats"}
"""Of these names, those that are modules themselves."""

_CALLED = {"register_strategy": "register"}
"""What a public name is called where it is, when that is shorter."""

__all__ = [
    "AdaptiveClip",
    "BadInput",
    "BudgetExceeded",
    "Compression",
    "Ditto",
    "Evaluation",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedBN",
    "FedProx",
    "FedSGD",
    "FedYogi",
    "Federation",
    "IsolationRefused",
    "JobNotApproved",
    "LocalFederation",
    "LocalTraining",
    "OwnersMissingWarning",
    "PermissionDenied",
    "Plan",
    "PointerTensor",
    "Privacy",
    "QFedAvg",
    "RecordPrivacy",
    "Refused",
    "Round",
    "RoundAborted",
    "Run",
    "RunFailed",
    "SaturatedWarning",
    "Scaffold",
    "SmpcError",
    "Stop",
    "Unavailable",
    "UpdatePlan",
    "connect",
    "load_keras",
    "partition",
    "plot_partition",
    "plot_statistic",
    "register_strategy",
    "register_update",
    "secure_mean",
    "secure_sum",
    "simulate",
    "sklearn",
    "stats",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'smpc_fl' has no attribute {name!r}")
    module = importlib.import_module(f"smpc_fl.{_WHERE[name]}")
    value = module if name in _MODULES else getattr(module, _CALLED.get(name, name))
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
