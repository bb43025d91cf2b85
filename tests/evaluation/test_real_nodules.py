"""Sensitivity against false positives a litre on cubes, and whether borders tell labels."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from lungadv.data.ingest import ingest
from lungadv.data.nodule_cubes import read_cubes
from lungadv.evaluation.real_nodules import (
    Searched,
    apply_thresholds,
    border_auc,
    compare_networks,
    search_cubes,
    sensitivity_per_litre,
)
from lungadv.utils.files import repo_root
from tests.data.made_cubes import write_cube

PLACE = {"coordX": 0.0, "coordY": 0.0, "coordZ": 0.0}


class Brightness(nn.Module):
    """A network that calls a patch a nodule where its middle is bright."""

    output = "logits"

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(20.0))

    def forward(self, x):
        middle = x[:, 0, 7:9, 7:9, 7:9].mean(dim=(1, 2, 3)) - 0.4
        return self.scale * torch.stack([-middle, middle], dim=1)


def marks(*rows):
    """Marks of (cube, x, probability)."""
    return pd.DataFrame([PLACE | {"scan": scan, "coordX": x, "probability": p} for scan, x, p in rows])


@pytest.fixture
def searched():
    """Two cubes of half a litre: nodule 0 marked at 0.9, a false mark at 0.8, an excluded finding marked, nodule 1 at 0.7."""
    nodules = pd.DataFrame([PLACE | {"scan": k, "diameter_mm": 6.0 + 6 * k, "type": "solid"} for k in range(2)])
    excluded = pd.DataFrame([PLACE | {"scan": 0, "coordX": 30.0, "diameter_mm": 5.0}])
    cubes = pd.DataFrame({"path": ["a", "b"], "patient": ["p", "q"], "litres": [0.5, 0.5]})
    return Searched(cubes, nodules, excluded, {"net": marks((0, 1.0, 0.9), (0, 20.0, 0.8), (0, 30.0, 0.95), (1, 2.0, 0.7))})


def test_sensitivity_is_read_where_so_many_false_marks_a_litre_are_made(searched):
    table = sensitivity_per_litre(searched, {"all": np.ones(2, bool)}, rates=(0.5, 2))
    assert table["sensitivity"].tolist() == [0.5, 1.0]
    assert table[["nodules", "patients"]].to_numpy().tolist() == [[2, 2], [2, 2]]


def test_litres_not_cubes_are_what_false_marks_are_counted_over(searched):
    searched.cubes["litres"] = 0.05  # ten times the false marks a litre
    table = sensitivity_per_litre(searched, {"all": np.ones(2, bool)}, rates=(5, 20))
    assert table["sensitivity"].tolist() == [0.5, 1.0]


def test_marks_on_nodules_of_other_groups_count_neither_way(searched):
    table = sensitivity_per_litre(searched, {"large": np.array([False, True])}, rates=(0.5, 2)).set_index("per_litre")
    assert table["nodules"].tolist() == [1, 1] and table.loc[2, "sensitivity"] == 1.0


def test_intervals_are_over_patients_not_cubes():
    nodules = pd.DataFrame([PLACE | {"scan": k, "diameter_mm": 8.0, "type": "solid"} for k in range(40)])
    found = {"net": marks(*[(k, 0.0, 0.9) for k in range(20)])}
    widths = []
    for patients in (range(40), [k // 20 for k in range(40)]):  # all of one patient's are found, none of the other's
        cubes = pd.DataFrame({"path": "a", "patient": patients, "litres": 0.1})
        table = sensitivity_per_litre(Searched(cubes, nodules, nodules[:0], found), {"all": np.ones(40, bool)}, rates=(1,))
        widths.append((table["upper"] - table["lower"]).iloc[0])
    assert widths[0] < 0.4 and widths[1] == 1.0


def two_networks(marks_of_other):
    """Forty cubes of as many patients, one nodule each: `good` marks all but ten, `other` as given; each has false marks, too."""
    nodules = pd.DataFrame([PLACE | {"scan": k, "diameter_mm": 8.0, "type": "solid"} for k in range(40)])
    cubes = pd.DataFrame({"path": "a", "patient": range(40), "litres": 0.1})
    false = [(k, 30.0, 0.3 + k / 100) for k in range(40)]
    found = {"good": marks(*[(k, 0.0, 0.9) for k in range(30)], *false), "other": marks(*marks_of_other, *false)}
    return Searched(cubes, nodules, nodules[:0], found)


def test_a_difference_between_networks_is_over_the_same_patients():
    less = two_networks([(k, 0.0, 0.9) for k in range(20)])
    (row,) = compare_networks(less, [("good", "other")], rates=(1, 2)).to_dict("records")
    assert row["difference"] == pytest.approx(0.25) and 0.1 < row["lower"] < 0.25 < row["upper"] < 0.4
    same = compare_networks(two_networks([(k, 0.0, 0.8) for k in range(30)]), [("good", "other")], rates=(1, 2))
    assert (same[["difference", "lower", "upper"]].to_numpy() == 0).all()  # the same nodules are found at every rate


def test_thresholds_of_some_patients_are_applied_to_others(searched):
    known = two_networks([])
    known.marks.pop("other")
    known.marks["net"] = known.marks.pop("good")  # one false positive a litre: four of forty, above 0.65
    table = apply_thresholds(known, searched, rates=(1,))
    assert table[["threshold", "false_per_litre", "sensitivity"]].to_numpy().tolist() == [[pytest.approx(0.65), 1.0, 1.0]]
    assert table["lower"].item() == table["upper"].item() == 1.0


def test_a_search_finds_the_ball_and_says_how_much_lung_it_saw(tmp_path):
    for k, radius in enumerate((4.0, 2.0)):
        write_cube(tmp_path / "cubes", f"1.2.{k}", 0, radius)
    out = tmp_path / "made" / "real.csv"
    ingest(tmp_path / "cubes", "nodule-cubes", out, workers=1)
    found = search_cubes({"bright": Brightness()}, read_cubes(out), 16, 1.0)
    assert len(found.cubes) == len(found.nodules) == 1  # the nodule of 4 mm is not searched for
    assert found.cubes["litres"].tolist() == [pytest.approx(34**3 / 1e6)]
    best = found.marks["bright"].sort_values("probability").iloc[-1]
    assert best["probability"] > 0.9
    assert np.linalg.norm(best[["coordX", "coordY", "coordZ"]].to_numpy(float) - (-75, -25, -275)) < 4
    table = sensitivity_per_litre(found, {"all": np.ones(1, bool)}, rates=(1,))
    assert table["sensitivity"].tolist() == [1.0]


def labelled(count, rng):
    """Patches of noise, two a cube, one of each label."""
    table = pd.DataFrame({"path": np.repeat(range(count), 2), "label": [1, 0] * count, "has_both": True})
    return table, torch.from_numpy(rng.random((2 * count, 1, 16, 16, 16), dtype=np.float32))


def test_borders_that_tell_nothing_are_at_chance_and_others_are_told():
    rng = np.random.default_rng(0)
    table, patches = labelled(40, rng)
    patches[::2, :, 4:12, 4:12, 4:12] = 1  # the nodule lies inside: borders do not know of it
    assert 0.3 < border_auc(table, patches) < 0.7
    patches[::2] += 0.1
    assert border_auc(table, patches) > 0.95


def test_further_patches_of_one_cube_are_not_known_again():
    rng = np.random.default_rng(0)
    table, patches = labelled(30, rng)
    again = pd.concat([table] * 4, ignore_index=True)
    assert border_auc(again, patches.repeat(4, 1, 1, 1, 1)) == pytest.approx(border_auc(table, patches))


def test_a_border_of_too_few_cubes_is_no_measurement():
    with pytest.raises(ValueError, match="3 cubes have patches of both labels, at least 5 are needed"):
        border_auc(*labelled(3, np.random.default_rng(0)))


def test_the_notebook_says_why_it_shows_nothing_where_no_cubes_are(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("LUNGADV_REAL_CT", str(tmp_path))
    names = {"display": print}
    with plt.rc_context():
        for cell in json.loads((repo_root() / "nbs" / "16_real_nodules.ipynb").read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                exec("".join(cell["source"]), names)
    assert capsys.readouterr().out == "no folder luna16_nodules in LUNGADV_REAL_CT, and no manifest of cubes: nothing is shown below\n"
