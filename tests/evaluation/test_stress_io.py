"""Stress tests from files: bad patches and factories are named, a written report can be read again."""

import json
import os
import pickle
import sys
import zipfile
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from lungadv.evaluation import stress_io
from lungadv.evaluation.detector import StressedModel
from lungadv.evaluation.stress_io import load_patches, make_model, write_report
from tests.evaluation.toy_models import Template


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"positives": "fine"}, "no array negatives, only positives"),
        ({"x": "fine"}, "no array positives and no negatives, only x"),
        ({"positives": "fine", "negatives": "object"}, "holds Python objects"),
        ({"positives": "fine", "negatives": "double"}, "negatives have dtype float64"),
        ({"positives": "bytes", "negatives": "fine"}, "positives have dtype uint8"),
        ({"positives": "fine", "negatives": "hu"}, r"negatives span .*, not \[0, 1\]"),
        ({"positives": "nan", "negatives": "fine"}, "positives hold NaN"),
        ({"positives": "fine", "negatives": "small"}, r"negatives are \(1, 4, 8, 8\), positives \(1, 8, 8, 8\)"),
    ],
)
def test_bad_files_of_patches_are_named(arrays, message, tmp_path, patches):
    fine = patches.numpy()
    kinds = {"fine": fine, "object": fine.astype(object), "double": fine.astype(float), "bytes": (fine * 255).astype(np.uint8)}
    kinds |= {"hu": fine * 1400 - 1000, "nan": np.where(fine > 0.505, np.nan, fine).astype(np.float32), "small": fine[:, :, :4]}
    np.savez(tmp_path / "patches.npz", **{name: kinds[kind] for name, kind in arrays.items()})
    with pytest.raises(ValueError, match=message) as error:
        load_patches(tmp_path / "patches.npz")
    assert "patches.npz" in str(error.value)


@pytest.mark.parametrize("content", [b"", b"no zip at all", b"PK\x03\x04 cut off"])
def test_a_file_that_is_no_npz_is_named(content, tmp_path):
    (tmp_path / "patches.npz").write_bytes(content)
    with pytest.raises(ValueError, match="patches.npz"):
        load_patches(tmp_path / "patches.npz")


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_no_python_object_is_ever_made(tmp_path, patches):
    trap = tmp_path / "executed"
    np.savez(tmp_path / "array.npz", positives=np.array([Touch(trap)], dtype=object), negatives=patches.numpy())
    np.savez(tmp_path / "member.npz", negatives=patches.numpy())
    with zipfile.ZipFile(tmp_path / "member.npz", "a") as archive:
        archive.writestr("positives.npy", pickle.dumps(Touch(trap)))
    (tmp_path / "whole.npz").write_bytes(pickle.dumps(Touch(trap)))
    for name in ("array", "member", "whole"):
        with pytest.raises(ValueError, match=f"{name}.npz: .*(Python objects|no .npz|dtype)"):
            load_patches(tmp_path / f"{name}.npz")
    assert not trap.exists()


@pytest.mark.parametrize("change", ["shape", "packing", "bomb", "encrypted"])
def test_a_damaged_npz_is_one_error(tmp_path, patches, change, monkeypatch):
    path = tmp_path / "patches.npz"
    np.savez(path, positives=patches.numpy(), negatives=patches.numpy())
    content = path.read_bytes()
    if change == "shape":  # more than any memory: the header is padded, so its length stays
        shape = str(patches.numpy().shape).encode()
        huge = str((10**12, *patches.shape[1:])).encode()
        with zipfile.ZipFile(path) as old:
            members = {name: old.read(name) for name in old.namelist()}
        with zipfile.ZipFile(path, "w") as new:
            for name, data in members.items():
                new.writestr(name, data.replace(shape + b", }" + b" " * (len(huge) - len(shape)), huge + b", }"))
    elif change == "packing":
        path.write_bytes(content.replace(b"PK\x01\x02\x2d\x03\x2d\0\0\0\0\0", b"PK\x01\x02\x2d\x03\x2d\0\0\0\x63\0"))
    elif change == "encrypted":
        path.write_bytes(content.replace(b"PK\x01\x02\x2d\x03\x2d\0\0\0", b"PK\x01\x02\x2d\x03\x2d\0\x01\0"))
    else:
        monkeypatch.setattr(stress_io.psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    assert change == "bomb" or path.read_bytes() != content
    said = {"shape": "cannot be read|cannot reshape|reading array", "packing": "NotImplementedError", "bomb": "more than the free memory"}
    with pytest.raises(ValueError, match=f"patches.npz: .*({said.get(change, 'RuntimeError')})") as error:
        load_patches(path)
    assert "\n" not in str(error.value)


def test_a_single_array_is_named(tmp_path, patches):
    np.save(tmp_path / "patches.npy", patches.numpy())
    with pytest.raises(ValueError, match="single array"):
        load_patches(tmp_path / "patches.npy")


FACTORIES = """
import torch

class Mean(torch.nn.Module):
    def forward(self, x):
        return 100 * (x.mean(dim=(1, 2, 3, 4)) - 0.5)

def good(): return Mean()
def none(): return None
def broken(): raise RuntimeError("no weights")
def leaving(): raise SystemExit(3)
number = 3
"""


@pytest.mark.parametrize(
    "factory, message",
    [
        ("no_colon", "not of the form package.module:function"),
        ("made_up:", "not of the form package.module:function"),
        ("made_up_module:good", "failed with ModuleNotFoundError.* current folder"),
        ("{}:absent", "has no function absent"),
        ("{}:number", "has no function number"),
        ("{}:none", "returned NoneType, not a model"),
        ("{}:broken", "failed with RuntimeError: no weights"),
        ("{}:leaving", "failed with SystemExit"),
    ],
)
def test_a_factory_that_gives_no_model_is_named(factory, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "factories_of_a_test.py").write_text(FACTORIES)
    with pytest.raises(ValueError, match=message):
        make_model(factory.format("factories_of_a_test"))


def test_a_factory_in_the_working_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "factories_that_work.py").write_text(FACTORIES)
    assert isinstance(make_model("factories_that_work:good"), nn.Module)


def test_a_factory_that_changes_directory_or_the_path_leaves_both_as_they_were(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = "import os, sys\ndef moving(): os.chdir('/'); return len\ndef clearing(): sys.path.remove(os.getcwd()); return len\n"
    (tmp_path / "factories_that_move.py").write_text(source)
    before = list(sys.path)
    for name in ("moving", "clearing"):
        assert make_model(f"factories_that_move:{name}") is len
        assert os.getcwd() == str(tmp_path) and sys.path == before


def test_what_is_written_can_be_read_and_scored_again(tmp_path, honest, nodules):
    write_report(honest, tmp_path / "new" / "folder")
    folder = tmp_path / "new" / "folder"
    names = ["audit.csv", "examples.safetensors", "loss.csv", "report.json", "report.png", "stress.csv"]
    assert sorted(path.name for path in folder.iterdir()) == names
    report = json.loads((folder / "report.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert report["audit_holds"] and len(report["audit"]) == len(honest.audit) and report["settings"]["norm"] == "linf"
    assert pd.read_csv(folder / "stress.csv")["share_wrong"].tolist() == pytest.approx(honest.stress["share_wrong"].tolist(), abs=1e-6)
    examples = load_file(folder / "examples.safetensors")
    torch.testing.assert_close(examples["clean"], torch.cat(nodules))
    assert (folder / "report.png").read_bytes().startswith(b"\x89PNG")
    assert (StressedModel(Template(gain=0.2), "evidence").predict(examples["pgd"])[0][:12] < 0.5).all()
