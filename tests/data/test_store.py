"""store: patches as from memory, many readers, damage, full disks, and the data sets that use it."""

import errno
import hashlib
import json
import os
import resource
import signal
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import h5py
import numpy as np
import pandas as pd
import pytest

from lungadv.data import dataset, store
from lungadv.data.io.read import read_scan
from lungadv.data.io.write import write_scan
from lungadv.data.manifest import read_manifest
from lungadv.data.patches import extract_patches
from lungadv.data.scan import Scan, ScanError
from lungadv.utils.errors import InputError
from tests.data.real_files import REAL, UID, real
from tests.processes import hand_over

LIDC = REAL / "lidc_idri_0001" / f"{UID}.mhd"

TURNED = np.array([[2, -2, 1], [1, 2, 2], [-2, -1, 2]]) / 3  # a rotation: no axis along the patient's
DIRECTIONS = {"straight": np.eye(3), "flipped": np.diag([-1.0, 1.0, -1.0]), "permuted": np.eye(3)[[2, 0, 1]], "rotated": TURNED}


def noise_scan(direction=TURNED, shape=(37, 90, 71), uid="1.2.3", seed=0):
    """A scan of noise, on which any error shows."""
    hu = np.random.default_rng(seed).integers(-1024, 3072, shape, dtype=np.int16)
    return Scan(hu, (0.703125, 0.7, 2.5), (-30.1, 12.25, -280.0 / 3), direction, uid)


def places(scan, seed, count=12):
    """World points inside the scan, on its corners and faces, and outside."""
    shape = np.array(scan.hu.shape)
    inside = np.random.default_rng(seed).random((count, 3)) * shape - 0.5
    edges = np.array([[0, 0, 0], shape - 1, [-0.5, 3, 3], [4, shape[1] - 0.5, 9], [7, 7, shape[2] + 1]])
    return scan.to_world(np.concatenate([inside, edges, shape * [[3], [-3]]]))


@pytest.fixture
def stored(tmp_path):
    """A scan and its store."""
    scan = noise_scan()
    store.write(scan, tmp_path / "a.h5")
    return scan, tmp_path / "a.h5"


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_patches_are_those_from_memory_to_the_bit(tmp_path, direction):
    scan = noise_scan(direction)
    store.write(scan, tmp_path / "a.h5")
    opened = store.open_scan(tmp_path / "a.h5")
    for size, spacing in ((16, 0.625), (9, 3.0)):
        centres = places(scan, size)
        assert (extract_patches(opened, centres, size, spacing) == extract_patches(scan, centres, size, spacing)).all()


def test_an_opened_scan_knows_what_the_scan_knows(stored):
    scan, path = stored
    opened = store.open_scan(path)
    assert (opened.spacing, opened.origin, opened.uid) == (scan.spacing, scan.origin, scan.uid)
    assert (opened.direction == scan.direction).all()
    assert (opened.hu.shape, opened.hu.dtype, opened.hu.ndim, opened.hu.size) == (scan.hu.shape, np.int16, 3, scan.hu.size)
    points = places(scan, 0)
    assert (opened.to_voxel(points) == scan.to_voxel(points)).all() and (opened.to_world(points) == scan.to_world(points)).all()


def test_slices_are_numpys(stored):
    scan, path = stored
    hu = store.open_scan(path).hu
    for index in (np.s_[:], np.s_[3], np.s_[-1, ..., 2], np.s_[5:20, 80:, :-60], np.s_[::5, 1::2, 3], np.s_[30:99, 4:4], np.s_[1, 2, 3]):
        assert np.array_equal(hu[index], scan.hu[index]) and np.shape(hu[index]) == np.shape(scan.hu[index])
    assert hu[:].dtype == np.int16 and (np.asarray(hu) == scan.hu).all()
    with pytest.raises(IndexError):
        hu[37]


def test_a_file_says_what_it_holds(stored):
    scan, path = stored
    with h5py.File(path) as file:
        known = json.loads(file["hu"].attrs["scan"])
        assert known["uid"] == scan.uid and known["sha256"] == hashlib.sha256(scan.hu.tobytes()).hexdigest()
        assert file["hu"].chunks == store.chunk_shape(scan) == (6, 23, 23) and file["hu"].fletcher32


def test_blocks_are_cubes_of_16_mm_within_the_scan():
    def chunk(spacing, shape):
        return store.chunk_shape(Scan(np.zeros(shape, np.int16), spacing, (0, 0, 0), np.eye(3), "a"))

    assert chunk((1.25, 1.25, 1.25), (240, 220, 280)) == (13, 13, 13)
    assert chunk((0.5, 0.8, 40.0), (9, 100, 20)) == (1, 20, 20)


def test_the_same_scan_gives_the_same_bytes_and_writing_again_replaces(stored):
    scan, path = stored
    first = path.read_bytes()
    opened = store.open_scan(path)
    store.write(scan, path)
    assert path.read_bytes() == first and (opened.hu[2] == scan.hu[2]).all()
    other = noise_scan(seed=1)
    store.write(other, path)
    with pytest.raises(ScanError, match="replaced"):
        opened.hu[2]
    assert (store.open_scan(path).hu[2] == other.hu[2]).all()
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_the_store_of_an_opened_scan_can_be_written(stored, tmp_path):
    store.write(store.open_scan(stored[1]), tmp_path / "b.h5")
    assert (tmp_path / "b.h5").read_bytes() == stored[1].read_bytes()


# ---- many processes ----


def digest(job):
    """The SHA-256 of boxes at random places: a worker's job. No torch, whose threads may hang in a forked process."""
    scan, seed = job
    corners = np.random.default_rng(seed).integers(0, scan.hu.shape, (20, 3))
    boxes = [scan.hu[z : z + 12, y : y + 40, x : x + 40] for z, y, x in corners]
    return hashlib.sha256(b"".join(box.tobytes() for box in boxes)).hexdigest()


@pytest.mark.parametrize("start, workers", [("fork", 4), ("spawn", 2)])
def test_many_processes_read_at_once(stored, start, workers):
    scan, path = stored
    opened = store.open_scan(path)
    assert digest((opened, 99)) == digest((scan, 99))  # read here before the others start
    with ProcessPoolExecutor(workers, get_context(start)) as pool:
        assert list(pool.map(digest, [(opened, seed) for seed in range(24)])) == [digest((scan, seed)) for seed in range(24)]


def test_a_scan_handed_to_a_process_is_small_and_keeps_no_file_open(stored):
    opened = store.open_scan(stored[1])
    found, size = hand_over(opened)
    assert size < 2000 and (found.hu[4] == stored[0].hu[4]).all()
    assert not any(os.path.realpath(f"/proc/self/fd/{fd}") == str(stored[1]) for fd in os.listdir("/proc/self/fd"))


# ---- what goes wrong ----


def test_a_damaged_byte_is_an_error_or_changes_nothing(tmp_path):
    """Every byte of a small store, turned over: HDF5's header and index and each block are guarded."""
    scan = noise_scan(shape=(7, 24, 24))
    path = tmp_path / "a.h5"
    store.write(scan, path)
    sound, found = path.read_bytes(), 0
    for place in [*range(0, min(len(sound), 1200)), *range(1200, len(sound), 97)]:
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 0x5A]) + sound[place + 1 :])
        try:
            opened = store.open_scan(path)
            assert (opened.hu[:] == scan.hu).all() and opened.uid == scan.uid and opened.origin == scan.origin, place
        except ScanError as error:
            assert "a.h5" in str(error) and "\n" not in str(error)
            found += 1
    assert found > 300


def test_a_damaged_block_hurts_where_it_lies(stored):
    scan, path = stored
    with h5py.File(path) as file:
        block = file["hu"].id.get_chunk_info_by_coord((6, 23, 23))
    data = bytearray(path.read_bytes())
    data[block.byte_offset + block.size // 2] ^= 1
    path.write_bytes(data)
    opened = store.open_scan(path)
    assert (opened.hu[:6] == scan.hu[:6]).all()
    with pytest.raises(ScanError, match="a.h5' is damaged .*make it anew"):
        opened.hu[5:8, 20:30, 20:30]


def test_what_is_no_store_is_one_error(stored, tmp_path):
    path, good = tmp_path / "b.h5", stored[1].read_bytes()
    contents = {"text": b"a text, renamed\n" * 99, "empty": b"", "cut": good[: len(good) // 2], "head": good[:40]}
    for name, content in contents.items():
        path.write_bytes(content)
        with pytest.raises(ScanError, match="b.h5"):
            store.open_scan(path)
            pytest.fail(name)
    for missing in (tmp_path / "none.h5", tmp_path):
        with pytest.raises(ScanError, match="does not exist"):
            store.open_scan(missing)


def test_a_foreign_hdf5_file_is_refused(stored, tmp_path):
    scan, path = stored

    def plain(file):
        file["other"] = [1, 2]

    def bare(file):
        file.create_dataset("hu", data=scan.hu, chunks=(6, 23, 23))

    def outside(file):  # the voxels of another file
        file["hu"] = h5py.ExternalLink(str(path), "hu")

    def elsewhere(file):  # raw bytes of another file
        file.create_dataset("hu", (4, 4, 4), "i2", external=[(str(path), 0, 128)]).attrs["scan"] = np.bytes_(b"{}")

    def headless(file):
        file.create_dataset("hu", data=scan.hu, chunks=(6, 23, 23)).attrs["scan"] = np.bytes_(b"[1]")

    def real(file):
        known = store._header(scan)
        file.create_dataset("hu", data=scan.hu.astype(np.float32), chunks=(6, 23, 23)).attrs["scan"] = np.bytes_(known)

    for make in (plain, bare, outside, elsewhere, headless, real):
        with h5py.File(tmp_path / "b.h5", "w") as file:
            make(file)
        with pytest.raises(ScanError, match="b.h5"):
            store.open_scan(tmp_path / "b.h5")
            pytest.fail(make.__name__)


def test_a_full_disk_leaves_what_was_there(stored, monkeypatch):
    path, before = stored[1], stored[1].read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    for target in (path, path.with_name("new.h5")):
        with pytest.raises(ScanError, match=rf"{target.name}' of \d+ bytes cannot be written \(No space left.*space"):
            store.write(noise_scan(seed=1), target)
    assert [file.name for file in path.parent.iterdir()] == ["a.h5"] and path.read_bytes() == before


def write_limited(path):
    """Write a store where files may have 20 kB at most; the error's text. A child process's job."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    try:
        store.write(noise_scan(), path)
    except ScanError as error:
        return str(error)


def test_a_write_cut_short_by_the_system_leaves_nothing(tmp_path):
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        assert "cannot be written (File too large)" in pool.submit(write_limited, tmp_path / "a.h5").result()
    assert list(tmp_path.iterdir()) == []


def write_killed(path):
    """Write a store and be killed before the rename. A child process's job."""
    os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    store.write(noise_scan(), path)


def test_a_killed_write_leaves_no_store_and_the_next_one_works(tmp_path):
    child = get_context("spawn").Process(target=write_killed, args=(tmp_path / "a.h5",))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL and not (tmp_path / "a.h5").exists()
    store.write(noise_scan(), tmp_path / "a.h5")
    assert (store.open_scan(tmp_path / "a.h5").hu[9] == noise_scan().hu[9]).all()


def test_no_folder_is_one_error(tmp_path):
    (tmp_path / "file").touch()
    for folder in ("none", "file"):
        with pytest.raises(ScanError, match=f"{folder}/a.h5.*cannot be written"):
            store.write(noise_scan(), tmp_path / folder / "a.h5")


# ---- in a data set ----


def manifest(folder, uid="1.2.3", name="stores/1.2.3.h5", **change):
    """A manifest of one scan and its store."""
    for part in ("scans", "stores"):
        (folder / part).mkdir()
    scan = noise_scan(np.eye(3), uid=uid)
    write_scan(scan, folder / "scans" / "1.2.3.mhd")
    whole = read_scan(folder / "scans" / "1.2.3.mhd")
    store.write(Scan(**(vars(whole) | {"uid": uid} | change)), folder / "stores" / "1.2.3.h5")
    row = {"seriesuid": "1.2.3", "path": "scans/1.2.3.mhd", "dataset": "train", "store": name}
    pd.DataFrame([row]).to_csv(folder / "scans.csv", index=False)
    x, y, z = scan.to_world([[18, 40, 30]])[0]
    nodule = {"seriesuid": "1.2.3", "coordX": x, "coordY": y, "coordZ": z, "diameter_mm": 8}
    pd.DataFrame([nodule]).to_csv(folder / "annotations.csv", index=False)
    return folder / "scans.csv"


def test_patches_of_a_data_set_come_from_its_store(tmp_path, monkeypatch):
    data = read_manifest(manifest(tmp_path))
    whole = data.scan("1.2.3")
    monkeypatch.setattr(dataset, "read_scan", lambda path: pytest.fail("the whole scan was read"))
    opened = data.open_scan("1.2.3")
    assert isinstance(opened.hu, store.Voxels) and opened.uid == "1.2.3"
    assert (extract_patches(opened, places(whole, 3), 8, 0.9) == extract_patches(whole, places(whole, 3), 8, 0.9)).all()


@pytest.mark.parametrize("column", [{"store": ""}, {}])
def test_without_a_store_the_scan_is_read(tmp_path, column):
    path = manifest(tmp_path)
    table = pd.read_csv(path, dtype=str).drop(columns="store").assign(**column)
    table.to_csv(path, index=False)
    data = read_manifest(path)
    assert data.scans["store"].tolist() == [""] and (data.open_scan("1.2.3").hu == data.scan("1.2.3").hu).all()


@pytest.mark.parametrize(
    "change, problem",
    [
        ({"name": "../stores/1.2.3.h5"}, "leaves the manifest's folder"),
        ({"name": "stores/none.h5"}, "does not exist"),
        ({"name": "annotations.csv"}, "no store"),
        ({"uid": "9.9"}, "holds scan '9.9'"),
        ({"origin": (0, 0, 1)}, "not of this scan"),
        ({"hu": np.zeros((4, 90, 71), np.int16)}, "not of this scan"),
    ],
)
def test_a_store_of_another_scan_is_an_error_that_names_the_row(tmp_path, change, problem):
    with pytest.raises(InputError, match=f"scans.csv, line 2: .*{problem}"):
        read_manifest(manifest(tmp_path, **change))


def test_a_store_swapped_later_is_an_error(tmp_path):
    data = read_manifest(manifest(tmp_path))
    store.write(noise_scan(uid="4.5"), data.scans["store"][0])
    with pytest.raises(ScanError, match="holds scan '4.5'"):
        data.open_scan("1.2.3")


@real
def test_a_real_scan_is_smaller_than_its_zraw_and_gives_the_same_patches(tmp_path):
    scan = read_scan(LIDC)
    store.write(scan, tmp_path / "a.h5")
    assert (tmp_path / "a.h5").stat().st_size < LIDC.with_suffix(".zraw").stat().st_size
    opened = store.open_scan(tmp_path / "a.h5")
    centres = places(scan, 5, 4)
    assert (extract_patches(opened, centres, 64, 0.625) == extract_patches(scan, centres, 64, 0.625)).all()
