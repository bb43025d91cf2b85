"""Cubes of nodules as a data set of small scans."""

import numpy as np
import pytest

from lungadv.data.cube_dataset import CubeData, cubes_as_data, usable_cubes
from lungadv.data.dataset import load_data, write_data
from lungadv.data.ingest import ingest
from lungadv.data.nodule_cubes import load_cube, read_cubes
from lungadv.utils.errors import InputError
from tests.data.made_cubes import write_cube


@pytest.fixture
def cubes(tmp_path, out):
    """Balls of 8, 10 and 4 mm; the second is cut off near its middle."""
    write_cube(tmp_path / "cubes", "1.2.0", 0, 4.0)
    write_cube(tmp_path / "cubes", "1.2.1", 3, 5.0, shape=(50, 50, 35), middle=(25, 25, 25))
    write_cube(tmp_path / "cubes", "1.2.2", 0, 2.0)
    ingest(tmp_path / "cubes", "nodule-cubes", out, workers=1)
    return read_cubes(out)


def test_a_cube_is_a_scan_with_one_nodule_and_its_mask(cubes, tmp_path):
    write_data(cubes_as_data(cubes), tmp_path)
    data = load_data(tmp_path, CubeData)
    assert data.uids == ["1.2.0_0", "1.2.1_3"]  # the nodule of 4 mm is too small
    scan, inside = load_cube(cubes.table.iloc[0])
    assert np.array_equal(data.scan("1.2.0_0").hu, scan.hu) and np.array_equal(data.labels("1.2.0_0"), inside)
    lung = data.lungs("1.2.0_0")
    assert lung.dtype == bool and lung.mean() > 0.9 and lung[inside].all()
    name = data.scans["dataset"][0]
    assert data.of(name).uids[0] == "1.2.0_0" and data.datasets == ["train", "validation", "test"]
    with pytest.raises(InputError, match="unknown data set 'nlst': choose one of train, validation, test"):
        data.of("nlst")


def test_a_nodule_whose_patch_leaves_its_cube_is_not_used(cubes):
    assert usable_cubes(cubes, 16.0).table["seriesuid"].tolist() == ["1.2.0", "1.2.1", "1.2.2"]
    assert usable_cubes(cubes, 20.0).table["seriesuid"].tolist() == ["1.2.0", "1.2.2"]
