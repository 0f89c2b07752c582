"""A query that nobody sees, answered by a model that nobody sees:   python examples/encrypted_inference.py

A network for handwritten digits (784-128-128-10) is trained in clear, then shared among parties; each image is shared as well.
What is opened is the class, and nothing else. The parties and the crypto provider are machines in this process: every message
that they would send is made and counted. The images: see examples/images/data.py.
"""

from __future__ import annotations

import argparse
import os
import time

import torch
from images.data import load_mnist
from rich.console import Console
from torch import nn

import smpc_fl as sf
from smpc_fl.shared_tensors.reading import predict
from smpc_fl.shared_tensors.session import LocalParties
from smpc_fl.shared_tensors.tensor import Desk, SharedTensor


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
    )


def trained(x: torch.Tensor, y: torch.Tensor, epochs: int) -> nn.Sequential:
    torch.manual_seed(0)
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[batch]), y[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return net.eval()


def classes(desk: Desk, plan: sf.Plan, model: dict[str, SharedTensor], images: torch.Tensor) -> torch.Tensor:
    """Of shared images under a shared model: only the number of the largest logit is opened."""
    x = desk.share(images)
    logits = desk.wrap(predict(plan, desk.value(x), {name: desk.value(tensor) for name, tensor in model.items()}))
    return logits.argmax(1).get().long()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Encrypted inference")
    parser.add_argument("--images", type=int, default=1_000, help="test images (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=128, help="images at a time (default: %(default)s)")
    parser.add_argument("--parties", type=int, default=2, help="that hold the shares (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=2, help="of training in clear (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=20_000, help="training images (default: %(default)s)")
    chosen = parser.parse_args(arguments)
    console = Console()
    train, test = load_mnist()
    net = trained(torch.from_numpy(train.x[: chosen.rows]), torch.from_numpy(train.y[: chosen.rows]), chosen.epochs)
    images, labels = torch.from_numpy(test.x[: chosen.images]), torch.from_numpy(test.y[: chosen.images])
    with torch.no_grad():
        clear = net(images).argmax(1)
    plan = sf.Plan.from_module(net, example=(images[:4], labels[:4]))
    said: list[int] = []
    desk = Desk(LocalParties(os.urandom, chosen.parties, lambda _, message: said.append(len(message.data))))
    model = {name: desk.share(tensor.detach()) for name, tensor in net.named_parameters()}
    began = time.perf_counter()
    found = torch.cat([classes(desk, plan, model, part) for part in images.split(chosen.batch)])
    seconds = time.perf_counter() - began
    megabytes = sum(said) * (chosen.parties - 1) / 1e6
    console.print(
        f"{len(images)} images, {chosen.parties} parties in one process: {seconds:.1f} s, {megabytes:.1f} MB between them.\n"
        f"Same class as in clear: {int((found == clear).sum())} of {len(images)}. "
        f"Right: {float((found == labels).float().mean()):.3f}, in clear {float((clear == labels).float().mean()):.3f}.",
        highlight=False,
    )


if __name__ == "__main__":
    main()
