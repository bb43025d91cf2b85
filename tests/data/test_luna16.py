"""LUNA16's tables."""

from lungadv.data.luna16 import read_excluded
from lungadv.data.tables import read_nodules
from tests.data.real_files import REAL, UID, real

EXCLUDED = REAL / "luna16_tables" / "annotations_excluded_LIDC-IDRI-0001_only.csv"


@real
def test_luna16s_own_tables():
    nodules = read_nodules(REAL / "luna16_tables" / "annotations.csv")
    assert len(nodules) == 1186 and nodules["seriesuid"].nunique() == 601 and (nodules["type"] == "unspecified").all()
    excluded = read_excluded(EXCLUDED)
    assert len(excluded) == 19 and set(excluded["seriesuid"]) == {UID}  # of its 25 rows 6 come twice
