"""What a run's data are."""

import pytest

from lungadv.data.kinds import kind_of


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("seriesuid,path,kind\n1.2,a,nodule-cube\n", "cubes"),
        ("seriesuid\tkind\n1.2\tnodule-cube\n", "cubes"),
        ("seriesuid,path,dataset\n1.2,nodule-cube,train\n", "scans"),
        ("seriesuid,kind\n1.2,scan\n", "scans"),
        ("seriesuid,kind\n", "scans"),
        ("", "scans"),
    ],
)
def test_cubes_are_told_by_the_manifests_first_row(tmp_path, text, kind):
    path = tmp_path / "some.csv"
    path.write_text(text)
    assert kind_of(path) == kind_of(str(path)) == kind


def test_the_phantom_and_what_is_no_table_are_no_cubes(tmp_path):
    (tmp_path / "bytes.csv").write_bytes(bytes(range(128, 256)))
    assert kind_of("phantom") == "phantom"
    assert kind_of(tmp_path / "bytes.csv") == kind_of(tmp_path) == kind_of(tmp_path / "none.csv") == "scans"
