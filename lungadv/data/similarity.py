"""How alike two volumes look: the structural similarity index (Wang et al. 2004)."""

import numpy as np
import torch

__all__ = ["ssim"]

WINDOW = 7  # voxels along an edge of the cubic window


def ssim(a: torch.Tensor, b: torch.Tensor, region: torch.Tensor | None = None) -> torch.Tensor:
    """Structural similarity, float32 (N,), of volumes (N, 1, D, H, W) in [0, 1] on the CPU; scikit-image computes it.

    The mean is taken over `region`, bool (N, 1, D, H, W), or over all voxels; half a window at the border is left out.
    """
    from skimage.metrics import structural_similarity

    inner = (slice(WINDOW // 2, -(WINDOW // 2)),) * 3
    means = []
    for k, (before, after) in enumerate(zip(a[:, 0].double().numpy(), b[:, 0].double().numpy(), strict=True)):
        index = structural_similarity(before, after, win_size=WINDOW, data_range=1.0, full=True)[1][inner]
        means.append(index.mean() if region is None else index[region[k, 0].numpy()[inner]].mean())
    return torch.tensor(np.array(means)).float()
