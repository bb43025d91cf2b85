"""The attacks that an audit compares: all on the same patches, at one eps, from the same start."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from lungadv.attacks.pgd import fgsm, pgd
from lungadv.attacks.square import square
from lungadv.evaluation.detector import FiniteGradient, StressedModel, has_gradient
from lungadv.evaluation.stress import random_signs, uniform_noise
from lungadv.evidence import beta_loss
from lungadv.training.loop import descend

__all__ = ["MisleadingGradient", "Searches", "gradient_agreement", "search", "train_surrogate"]


def train_surrogate(detector: StressedModel, patches: torch.Tensor, seed: int = 0, updates: int = 80) -> nn.Module:
    """A small network of output "logit" that has learned to answer `patches` (N, 1, D, H, W), clean and noisy, as `detector` does.

    It sees patches at 12 x 12 x 12 voxels and learns the log-odds scaled to unit spread. It lives on the detector's device.
    """
    draws = torch.Generator().manual_seed(seed)
    images = torch.cat([patches, uniform_noise(patches, 0.05, draws), uniform_noise(patches, 0.2, draws)])
    pool = nn.AdaptiveAvgPool3d(12)
    with torch.no_grad():
        batches = [batch.to(detector.device) for batch in images.split(detector.batch_size)]
        odds, small = (torch.cat([answer(batch) for batch in batches]) for answer in (detector.log_odds, pool))
    target = ((odds - odds.mean()) / odds.std().clamp(min=1e-6)).to(small.device)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        layers = [nn.Conv3d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv3d(8, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(1000, 1)]
        network = nn.Sequential(*layers, nn.Flatten(0)).to(small.device)
        optimizer = torch.optim.Adam(network.parameters(), 2e-3)
        for _ in range(updates):
            rows = torch.randint(len(small), (32,), generator=draws).to(small.device)
            descend(optimizer, F.smooth_l1_loss(network(small[rows]), target[rows]))
    return nn.Sequential(pool, network).eval().requires_grad_(False)


class MisleadingGradient(torch.autograd.Function):
    """Leaves a batch as it is and hides its gradient: shifted by half a patch, every second sign turned at random.

    The shift alone misleads no model that asks for the mean grey level, the signs alone none that looks at a few voxels.
    """

    @staticmethod
    def forward(ctx, batch):
        return batch.clone()

    @staticmethod
    def backward(ctx, gradient):
        signs = torch.randint(2, gradient.shape[1:], generator=torch.Generator().manual_seed(0)).mul(2).sub(1)
        return gradient.roll([side // 2 for side in gradient.shape[2:]], (2, 3, 4)) * signs.to(gradient)


@dataclass(frozen=True)
class Searches:
    """What the attacks of an audit found on the same patches, all at one eps."""

    main: str  # the attack that is audited, "pgd" or "square"
    signs: np.ndarray  # (N,) -1 for a nodule, 1 for another patch
    points: dict[str, torch.Tensor]  # attack -> (N, 1, D, H, W) on the CPU; "clean" among them
    margins: dict[str, np.ndarray]  # attack -> (N,) log-odds on the wrong side of the threshold, float64
    loss: np.ndarray  # (evaluations,) mean best margin after each look at the model in the audited attack
    no_gradient: float  # share of clean patches whose gradient is zero or not finite; NaN for a model without gradients
    gradient_ratio: float  # see `gradient_agreement`; NaN for a model without gradients
    not_finite: float  # share of all answers so far that were not finite

    def gain(self, attack: str) -> float:
        """By how much an attack moves the log-odds on average; a patch that it made easier counts as left alone."""
        return float((self.margins[attack] - self.margins["clean"]).clip(min=0).mean())

    def share(self, *attacks: str) -> float:
        """The share of patches that the worst of these attacks, patch by patch, has on the wrong side.

        At the threshold there is no nodule, as in `stress.is_wrong`.
        """
        worst = np.max([self.margins[attack] for attack in attacks], axis=0)
        return float(np.where(self.signs < 0, worst >= 0, worst > 0).mean())

    def moves_further(self, attack: str, other: str) -> bool:
        """Whether `attack` moves the log-odds further than `other`, by more than 2 %."""
        return self.gain(attack) > 1.02 * self.gain(other)


class _RecordedLoss:
    """A loss that keeps its values."""

    def __init__(self, loss):
        self.loss, self.seen = loss, []

    def __call__(self, batch, *context):
        self.seen.append(self.loss(batch, *context))
        return self.seen[-1]

    def best(self):
        """The mean over patches of the highest value so far, after each call."""
        return torch.stack([values.detach().double().cpu() for values in self.seen]).cummax(0).values.mean(1).numpy()


@dataclass(frozen=True)
class _Losses:
    """The functions (batch, sign) -> (N,) that the attacks of an audit climb, on the detector's device."""

    detector: StressedModel
    surrogate: StressedModel
    threshold: float

    def margin(self, batch, sign):
        """The log-odds on the wrong side of the threshold."""
        return sign * (self.detector.log_odds(batch) - float(np.log(self.threshold / (1 - self.threshold))))

    def finite(self, batch, sign):
        """The margin, with a gradient that holds no NaN: what is attacked."""
        return self.margin(FiniteGradient.apply(batch), sign)

    def misled(self, batch, sign):
        """The margin of a copy of the model whose gradient is led astray."""
        return self.finite(MisleadingGradient.apply(batch), sign)

    def head(self, batch, sign):
        """The loss that the head is trained with: Beta loss or cross-entropy."""
        batch = FiniteGradient.apply(batch)
        if self.detector.output == "evidence":
            return beta_loss(self.detector.forward(batch)[0], (sign < 0).float())
        return F.softplus(sign * self.detector.log_odds(batch))

    def transferred(self, batch, sign):
        """The log-odds of the surrogate, on the wrong side of 0."""
        return sign * self.surrogate.log_odds(batch.to(self.surrogate.device)).to(batch.device)


def _attacks(losses, recorded, clean, signs, white_box, *, eps, steps, queries, seed):
    """The attacks on `clean` (N, 1, D, H, W) by name: functions without arguments that return the points found."""
    start, signs = clean.to(losses.detector.device), signs.to(losses.detector.device)
    first, second = torch.randint(2**62, (2, len(start)), generator=torch.Generator().manual_seed(seed))
    terms = {"context": (signs,), "eps": eps, "bounds": (0.0, 1.0)}

    def climb(loss, steps=steps, seeds=first):
        return pgd(loss, start, steps=steps, seeds=seeds, **terms).best

    def ask(loss, queries=queries, seeds=first):
        return square(loss, start, queries=queries, seeds=seeds, **terms).best

    again, effort = (climb, steps) if white_box else (ask, queries)
    attacks = {
        "clean": lambda: start,
        "random": lambda: random_signs(clean, eps, torch.Generator().manual_seed(seed)),
        "pgd" if white_box else "square": lambda: again(recorded),
        "twice": lambda: again(losses.finite, 2 * effort),
        "restart": lambda: again(losses.finite, seeds=second),
        "transfer": lambda: climb(losses.transferred),
    }
    if white_box:
        attacks |= {"fgsm": lambda: fgsm(losses.finite, start, **terms).best, "square": lambda: ask(losses.finite)}
        attacks |= {"head": lambda: climb(losses.head), "misled": lambda: climb(losses.misled)}
    return attacks


def search(
    detector: StressedModel,
    surrogate: StressedModel,
    clean: torch.Tensor,
    signs: torch.Tensor,
    *,
    eps: float,
    steps: int,
    queries: int,
    threshold: float,
    seed: int,
    progress: bool = False,
) -> Searches:
    """Attack patches (N, 1, D, H, W) in [0, 1] in every way that the audit compares.

    `signs` (N,) are -1 for nodules, 1 for the others. PGD makes `steps` steps, Square `queries` looks at the model.
    Attacks are also transferred from `surrogate`. Raises ValueError as `StressedModel.forward` and `has_gradient` do.
    """
    losses = _Losses(detector, surrogate, threshold)
    recorded, white_box = _RecordedLoss(losses.finite), has_gradient(detector, clean[:1])
    attacks = _attacks(losses, recorded, clean, signs, white_box, eps=eps, steps=steps, queries=queries, seed=seed)
    points = {name: run().cpu() for name, run in tqdm(attacks.items(), desc="audit", unit=" attacks", disable=not progress)}
    start, signs = clean.to(detector.device), signs.to(detector.device)
    with torch.no_grad():
        margins = {name: losses.finite(found.to(start.device), signs).double().cpu().numpy() for name, found in points.items()}
    main = "pgd" if white_box else "square"
    margins["restart"] = np.where(margins[main] > margins["restart"], margins[main], margins["restart"])
    no_gradient, ratio = gradient_agreement(losses.margin, start, signs, eps / 20) if white_box else (np.nan, np.nan)
    not_finite = detector.finite[False] / detector.finite.total()
    return Searches(main, signs.cpu().numpy(), points, margins, recorded.best(), no_gradient, ratio, not_finite)


def gradient_agreement(
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], start: torch.Tensor, signs: torch.Tensor, step: float
) -> tuple[float, float]:
    """Whether the gradient g of `loss` (batch, signs) -> (N,) at `start` (N, 1, D, H, W) in [0, 1] is that of the loss.

    Returns the share of patches whose gradient is zero or not finite, and a ratio for the others: the median of
    [l(x + h sign g) - l(x - h sign g)] / (2 h |g|_1) with h = `step`. It is 1 for the right gradient, NaN where none is left.
    A voxel at 0 or 1 moves one way alone, and is counted as such.
    """
    with torch.enable_grad():
        batch = start.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(batch, signs).sum(), batch)
    size = gradient.flatten(1).abs().amax(1)
    alive = size.isfinite() & (size > 0)
    ahead, behind = ((start + way * step * gradient.sign()).clamp(0, 1) for way in (1, -1))
    with torch.no_grad():
        change = loss(ahead, signs).double() - loss(behind, signs).double()
    predicted = (gradient.double() * (ahead.double() - behind.double())).flatten(1).sum(1)
    ratio = (change / predicted)[alive].cpu().numpy()
    return float((~alive).double().mean()), float(np.median(ratio)) if len(ratio) else np.nan
