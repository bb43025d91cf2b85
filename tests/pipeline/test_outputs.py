import base64
import copy
import io
import json

import numpy as np
import pytest
from PIL import Image

from lungadv.pipeline.outputs import clean_outputs, keep_outputs, output_problems, say_terms, smaller_picture, with_outputs
from lungadv.utils.errors import InputError


def png(pixels):
    """A picture uint8 (H, W, 3) as a notebook holds it."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def pixels_of(text):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")).astype(int)


SCAN = np.repeat(np.random.default_rng(0).integers(0, 256, (60, 80, 1), dtype=np.uint8), 3, axis=2)
PICTURE = {"output_type": "display_data", "data": {"image/png": png(SCAN), "text/plain": "<Figure size 1>"}, "metadata": {"w": 3}}
TEXT = {"output_type": "stream", "name": "stdout", "text": "8 of 9 nodules\n"}
BAR = {"output_type": "stream", "name": "stderr", "text": "100%|####| 3/3 [00:01<00:00, 3.0it/s]"}
VALUE = {"output_type": "execute_result", "data": {"text/plain": "0.25"}, "metadata": {}, "execution_count": 7}


def notebook(*outputs, source="1 / 4"):
    cell = {"cell_type": "code", "id": "a", "source": [source], "metadata": {}, "outputs": list(outputs), "execution_count": None}
    return {"cells": [{"cell_type": "markdown", "id": "m", "source": ["# Title"], "metadata": {}}, cell], "nbformat": 4}


def test_outputs_are_kept_without_what_changes_from_run_to_run():
    kept = with_outputs(notebook(), notebook(BAR, TEXT, PICTURE, VALUE), "n.ipynb")["cells"][1]
    assert kept["execution_count"] is None
    assert [output["output_type"] for output in kept["outputs"]] == ["stream", "display_data", "execute_result"]
    assert list(kept["outputs"][1]["data"]) == ["image/png"] and kept["outputs"][2]["execution_count"] is None
    assert not output_problems({"cells": [kept]})


def test_the_same_run_twice_changes_nothing():
    first = clean_outputs([BAR, TEXT, PICTURE, VALUE])
    again = copy.deepcopy([BAR, TEXT, PICTURE, VALUE | {"execution_count": 99}])
    again[0]["text"] = "100%|####| 3/3 [00:09<00:00, 0.3it/s]"
    assert clean_outputs(again) == first == clean_outputs(first)


def test_the_parameters_are_followed_by_what_the_outputs_are_of():
    shown = notebook(TEXT)
    shown["cells"].insert(1, {"cell_type": "code", "id": "p", "source": ["seed = 0"], "metadata": {"tags": ["parameters"]}, "outputs": []})
    terms = "profile quick, seed 1, strategy control, commit 61f7e02"
    kept = say_terms(shown, terms)
    assert kept["cells"][1]["outputs"][0]["text"] == [f"The outputs below are of: {terms}.\n"]
    assert kept["cells"][2] == shown["cells"][2] and say_terms(kept, terms) == kept and not output_problems(kept)
    assert say_terms(notebook(TEXT), terms) == notebook(TEXT)  # no parameters: it ran as it opens


def test_kept_outputs_name_their_run(clone, finish):
    run, name = finish(1, 0.7), "07_fpr-baseline-beta-finetune"
    cells = [{**notebook()["cells"][1], "id": "p", "metadata": {"tags": ["parameters"]}}, notebook()["cells"][1]]
    (clone / "nbs").mkdir()
    run.path("notebooks").mkdir()
    for path, outputs in ((clone / "nbs" / "07_fpr.ipynb", []), (run.path("notebooks", f"{name}.ipynb"), [TEXT])):
        path.write_text(json.dumps({"cells": [cells[0], cells[1] | {"outputs": outputs}], "nbformat": 4}))
    record = json.loads(run.path("fpr/baseline-beta-finetune", "provenance.json").read_text())
    run.path("fpr/baseline-beta-finetune", "provenance.json").write_text(json.dumps(record | {"commit": "61f7e02fef31"}))
    for _ in range(2):  # the same again
        (path,) = keep_outputs(run)
        (terms,), (text,) = (cell["outputs"] for cell in json.loads(path.read_text())["cells"])
        assert terms["text"] == ["The outputs below are of: profile quick, seed 1, strategy baseline-beta-finetune, commit 61f7e02.\n"]
        assert text == TEXT


def test_the_notebook_of_cubes_keeps_the_outputs_of_a_run_on_cubes_alone(clone, finish):
    (clone / "cubes.csv").write_text("seriesuid,kind\n1.2,nodule-cube\n")
    runs = {kind: finish(0, 0.7, data) for kind, data in (("scans", "phantom"), ("cubes", "cubes.csv"))}
    (clone / "nbs").mkdir()
    for name in ("08_synthesizer", "16_real_nodules"):
        (clone / "nbs" / f"{name}.ipynb").write_text(json.dumps(notebook()))
    for kind, run in runs.items():
        run.path("notebooks").mkdir()
        for name in ("08_synthesizer", "16_real_nodules"):
            run.path("notebooks", f"{name}.ipynb").write_text(json.dumps(notebook(TEXT | {"text": kind})))
    assert {kind: [path.stem for path in keep_outputs(run)] for kind, run in runs.items()} == {
        "scans": ["08_synthesizer"],
        "cubes": ["16_real_nodules"],
    }
    assert json.loads((clone / "nbs" / "16_real_nodules.ipynb").read_text())["cells"][1]["outputs"][0]["text"] == "cubes"


def test_a_palette_makes_a_picture_smaller_and_leaves_it_as_it_looks():
    marked = SCAN.copy()
    marked[20:30, 20:30] = (213, 94, 0)
    smaller = smaller_picture(png(marked))
    assert len(smaller) < 0.5 * len(png(marked)) and np.abs(pixels_of(smaller) - marked).mean() < 2
    assert (pixels_of(smaller)[20:30, 20:30] == (213, 94, 0)).all() and smaller_picture(smaller) == smaller


def test_a_grey_picture_stays_as_it_is_and_gets_smaller_than_with_a_palette():
    slopes = np.repeat(np.add.outer(np.arange(0, 200, 2), np.arange(50))[..., None], 3, axis=2).astype(np.uint8)
    smaller = smaller_picture(png(slopes))
    palette = io.BytesIO()
    Image.fromarray(slopes).quantize(256, dither=Image.Dither.NONE).save(palette, "PNG", optimize=True)
    assert (pixels_of(smaller) == slopes).all() and smaller_picture(smaller) == smaller
    assert len(base64.b64decode(smaller)) < 0.8 * len(palette.getvalue())


def test_a_notebook_that_has_changed_since_the_run_is_refused():
    with pytest.raises(InputError, match="n.ipynb has changed since the run"):
        with_outputs(notebook(source="1 / 5"), notebook(VALUE), "n.ipynb")


@pytest.mark.parametrize(
    "text",
    ["in /home/me/lungadv", "100%|####| 3/3 [00:01<00:00, 3.0it/s]", "UserWarning: careful", "<object at 0x7f00>", "/tmp/runs/fpr"],
)
def test_paths_progress_and_warnings_are_named(text):
    (problem,) = output_problems(notebook(TEXT | {"text": text}))
    assert problem.startswith("cell 1 shows")


def test_large_outputs_are_named():
    (problem,) = output_problems(notebook(PICTURE | {"data": {"image/png": "A" * 2**20}}))
    assert "MiB" in problem
