"""A small clone of cubes of nodules, in the public repository's layout."""

import numpy as np
import SimpleITK as sitk

SIDE = 50


def write_cube(folder, uid, number, radius=4.0, middle=(25, 25, 25), shape=(SIDE,) * 3, origin=(-100.0, -50.0, -300.0), hu=None):
    """A ball of `radius` mm at voxel `middle` (z, y, x) in noise, and its mask; returns the cube's path."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(int(uid.replace(".", "")) + number)
    inside = np.linalg.norm(np.moveaxis(np.indices(shape), 0, -1) - np.array(middle), axis=-1) <= radius
    voxels = np.where(inside, 30, -850) + rng.integers(-40, 40, shape) if hu is None else hu
    for kind, array in (("dcm", voxels.astype(np.int16)), ("seg", inside.astype(np.int32))):
        image = sitk.GetImageFromArray(array)
        image.SetOrigin(origin)
        sitk.WriteImage(image, str(folder / f"{uid}_{kind}_{number}.mha"), useCompression=True)
    return folder / f"{uid}_dcm_{number}.mha"


def clone(root, patients=6):
    """A clone of `patients` series with two cubes each, beside a README and a table, as git brings it."""
    for k in range(patients):
        for number in range(2):
            write_cube(root / "nodule_patches", f"1.2.{k}", number, 3.0 + number + k / 10, origin=(-100.0 + 70 * number, -50.0, -300.0))
    (root / "ct_nodules.csv").write_text(",img_name,diameter\n0,1.2.0_dcm_0.mha,6\n")
    return root
