"""Tables of the report: text that is as in the files, places on the axis."""

import pandas as pd
import pytest

from lungadv.pipeline.report_tables import table1_rows, table2_parts
from lungadv.utils.errors import InputError

TABLE2 = pd.DataFrame(
    {"benchmark": ["in-house", "nlst"], "strategy": ["a", "b"], "cpm": ["0.75", "0.9"], "lower": ["0.55", ""], "upper": ["0.8", ""]}
    | {"fp_1": ["0.7012", "1"], "paper_cpm": ["1.0", ""], "paper_fp_1": ["0.9", ""]}
)


def test_intervals_lie_where_they_should_on_the_axis():
    house, nlst = table2_parts(TABLE2)
    assert house["benchmark"] == "in-house" and house["axis"] == (0.5, 1.0)
    (row,) = house["rows"]
    assert row["places"] == pytest.approx({"cpm": 50, "lower": 10, "upper": 60, "paper": 100})
    assert dict(zip(house["points"], row["points"], strict=True))["1"] == ("0.701", "0.900")
    (row,) = nlst["rows"]
    assert row["paper"] is None and row["places"]["lower"] is None and row["cpm"] == 0.9


def test_without_a_table_there_is_none_and_a_broken_one_is_named():
    assert table1_rows(None) is None and table2_parts(None) == []
    with pytest.raises(InputError, match="table2.csv is damaged"):
        table2_parts(TABLE2.assign(cpm="much"))
    assert table1_rows(pd.DataFrame({"total_nodules": ["3"]})) == {"columns": ["total nodules"], "rows": [["3"]]}
