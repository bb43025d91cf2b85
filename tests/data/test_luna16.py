"""LUNA16's tables and subsets."""

from lungadv.data.luna16 import read_excluded, subset_of
from lungadv.data.tables import LUNA16, read_nodules
from tests.data.real_files import REAL, UID, real

EXCLUDED = REAL / "luna16_tables" / "annotations_excluded_LIDC-IDRI-0001_only.csv"


def test_an_excluded_finding_that_comes_twice_counts_once_and_may_lack_a_diameter(tmp_path):
    path = tmp_path / "annotations_excluded.csv"
    path.write_text(",".join(LUNA16) + "\n" + "1.4,1,2,3,-1\n" * 2 + "1.4,1,2,3,5\n")
    assert read_excluded(path)["diameter_mm"].tolist() == [-1, 5]


def test_a_scan_is_of_the_subset_whose_folder_it_lies_in():
    paths = ("subset0/1.2.mhd", "luna/subset9/1.3.mhd", "subset10/1.4.mhd", "subset3.mhd", "1.5.mhd")
    assert [subset_of(path) for path in paths] == [0, 9, None, None, None]


@real
def test_luna16s_own_tables():
    nodules = read_nodules(REAL / "luna16_tables" / "annotations.csv")
    assert len(nodules) == 1186 and nodules["seriesuid"].nunique() == 601 and (nodules["type"] == "unspecified").all()
    excluded = read_excluded(EXCLUDED)
    assert len(excluded) == 19 and set(excluded["seriesuid"]) == {UID}  # of its 25 rows 6 come twice
