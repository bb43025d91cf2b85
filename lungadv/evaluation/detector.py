"""A model to be stressed: the log-odds of a nodule from any head, answers batch by batch, and attacks on them."""

import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from lungadv.attacks.pgd import pgd
from lungadv.evidence import log_odds_margin, uncertainty

__all__ = [
    "OUTPUTS", "FiniteGradient", "StressedModel", "check_answers", "check_mode", "has_gradient", "log_odds", "warn_if_swapped",
    "wrap_classifier",
]  # fmt: skip

OUTPUTS = ("evidence", "logit", "logits")
SEVERAL = 8  # patches of which a logit would hardly all be in [0, 1]
RANDOM = 1e-2  # log-odds: rounding makes two answers to the same patches differ by less
SWAPPED = 0.8  # of each class wrong: chance would give 0.5 of one at most
INFINITE = 1e4  # log-odds that stand for infinite ones; those of a float32 probability other than 0 and 1 reach some 104


def log_odds(values: torch.Tensor, output: str, count: int) -> torch.Tensor:
    """The log-odds of a nodule, float32 (N,), from a model's raw output on N = `count` patches.

    `output` "evidence": (N, 2) >= 0, column 0 positive; "logit": (N,) or (N, 1); "logits": (N, 2), class 1 positive.
    An answer that holds NaN has log-odds 0; infinite log-odds are +-INFINITE.
    Raises ValueError when the values do not have that shape, or cannot be evidence.
    """
    if not torch.is_tensor(values):
        raise ValueError(f"the model returned {type(values).__name__}, not a tensor: wrap it so that it returns its {output} alone")
    shapes = ((count,), (count, 1)) if output == "logit" else ((count, 2),)
    if tuple(values.shape) not in shapes:
        raise ValueError(f"the model returned shape {tuple(values.shape)} for {count} patches, but output={output!r} means {shapes[-1]}")
    values = zero_nan(values)
    if output == "evidence":
        if (values < 0).any():
            raise ValueError("the model returned negative values, which is no evidence: did you mean output='logits'?")
        odds = log_odds_margin(values, torch.zeros(count, device=values.device))
    else:
        odds = values.reshape(count) if output == "logit" else values[:, 1] - values[:, 0]
    return odds.nan_to_num(0.0, INFINITE, -INFINITE)


def zero_nan(values: torch.Tensor) -> torch.Tensor:
    """A model's raw output (N, ...) as float32; an answer that holds NaN becomes all zero: no evidence, a logit of 0."""
    values = values.float()
    broken = values.isnan().flatten(1).any(1) if values.ndim > 1 else values.isnan()
    return values.masked_fill(broken.reshape(-1, *[1] * (values.ndim - 1)), 0)


class FiniteGradient(torch.autograd.Function):
    """Leaves a batch as it is; NaN in its gradient becomes 0, so that an attack goes on where a model saturates."""

    @staticmethod
    def forward(ctx, batch):
        return batch.view_as(batch)

    @staticmethod
    def backward(ctx, gradient):
        return gradient.nan_to_num()


@dataclass(frozen=True)
class StressedModel:
    """A model with the meaning of its output: it answers patches, and it can be attacked."""

    model: Callable[[torch.Tensor], torch.Tensor]  # patches (n, 1, D, H, W) -> its output
    output: str  # one of OUTPUTS
    batch_size: int = 64  # patches that the model is shown at a time
    bar: tqdm = field(default_factory=lambda: tqdm(disable=True))  # counts the patches shown
    finite: Counter = field(default_factory=Counter)  # numbers of finite (True) and of other answers (False)

    @property
    def device(self) -> torch.device:
        """Where the model's parameters live; the CPU for a model without any."""
        parameters = self.model.parameters() if isinstance(self.model, nn.Module) else ()
        return next((parameter.device for parameter in parameters), torch.device("cpu"))

    def forward(self, patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The model's raw output for patches (n, 1, D, H, W) on its device, and the log-odds of a nodule (n,) that it means.

        The model is handed a copy: it may work in place on its input. For NaN and infinite values see `log_odds`.
        Raises ValueError when the model fails, or does not fit its output.
        """
        self.bar.update(len(patches))
        try:
            values = self.model(patches.clone())
        except Exception as error:
            raise ValueError(f"the model fails on patches of shape {tuple(patches.shape)}: {reason(error)}") from error
        odds = log_odds(values, self.output, len(patches))
        self.finite.update(values[:, None].isfinite().flatten(1).all(1).tolist())  # of no patch too
        return zero_nan(values), odds

    def log_odds(self, patches: torch.Tensor) -> torch.Tensor:
        """The log-odds of a nodule (n,) for patches (n, 1, D, H, W) on the model's device, see `forward`."""
        return self.forward(patches)[1]

    @torch.no_grad()
    def predict(self, patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Confidence and uncertainty, each (N,) in [0, 1] on the CPU, of patches (N, 1, D, H, W) on any device.

        Without evidence the uncertainty is 1 - |2p - 1|.
        """
        confidences, uncertainties = [], []
        for batch in patches.split(self.batch_size):
            values, odds = self.forward(batch.to(self.device))
            confidences.append(odds.sigmoid().cpu())
            known = self.output == "evidence"
            uncertainties.append(uncertainty(values).cpu() if known else 1 - (2 * confidences[-1] - 1).abs())
        return torch.cat(confidences), torch.cat(uncertainties)

    def attack(
        self, patches: torch.Tensor, label: int, *, generator: torch.Generator, search: Callable[..., Any] = pgd, **terms: Any
    ) -> torch.Tensor:
        """Patches in [0, 1] within linf `eps` of the given ones, (N, 1, D, H, W), whose log-odds lie as far from `label` as found.

        `terms` are those of the search, `pgd` (eps, steps, restarts ...) or `square` (eps, queries).
        Each patch has a seed of its own from the generator: what is found does not depend on the batch size.
        """
        sign = 1 - 2 * label  # a nodule's log-odds are pushed down, a negative's up

        def loss(batch):
            return sign * self.log_odds(FiniteGradient.apply(batch))

        terms = {"bounds": (0.0, 1.0), **terms}
        seeds = torch.randint(2**62, (len(patches),), generator=generator, device=generator.device)
        batches = zip(patches.split(self.batch_size), seeds.split(self.batch_size), strict=True)
        return torch.cat([search(loss, batch.to(self.device), seeds=own, **terms).best.cpu() for batch, own in batches])


def has_gradient(detector: StressedModel, patches: torch.Tensor) -> bool:
    """Whether the model's answer to patches (n, 1, D, H, W) can be differentiated by them.

    A plain function may have no gradient. Raises ValueError for a network without one, in which something is detached, and for a
    gradient that fails.
    """
    with torch.enable_grad():
        batch = patches.detach().to(detector.device).requires_grad_()
        odds = detector.log_odds(batch)
        try:
            reached = odds.requires_grad and torch.autograd.grad(odds.sum(), batch, allow_unused=True)[0] is not None
        except Exception as error:
            place = "it works in place on what its gradient needs: " if "inplace operation" in str(error) else ""
            raise ValueError(f"the model's gradient fails: {place}{reason(error)}") from error
    if not reached and (odds.requires_grad or isinstance(detector.model, nn.Module)):
        raise ValueError(
            "the network's answer does not depend on the batch by any gradient: is something in it detached, or computed under "
            "torch.no_grad? A model that has no gradient is given as a plain function"
        )
    return reached


def reason(error: Exception) -> str:
    """What a model's exception says: its type and, of the many lines of TorchScript, the last."""
    lines = str(error).strip().splitlines() or [""]
    script = any("TorchScript" in line for line in lines)
    return f"{type(error).__name__}: {lines[-1] if script else error}"


@torch.no_grad()
def check_answers(detector: StressedModel, patches: torch.Tensor) -> None:
    """Raises ValueError for a model whose answers to patches (n, 1, D, H, W) are probabilities, which no `output` of OUTPUTS means.

    Two values in [0, 1] that sum to 1 are the answer of a softmax; a single value in [0, 1] for every one of several patches is
    that of a sigmoid. Their gradients vanish where the model is sure, so that an attack on them would look weaker than it is.
    So would one on a model whose answers to the same patches differ: it is warned of.
    """
    patches = patches.to(detector.device)
    (values, odds), again = detector.forward(patches), detector.log_odds(patches)
    values = values.reshape(len(patches), -1)
    if (apart := float((odds - again).abs().max())) > RANDOM:
        warnings.warn(
            f"the model answers the same patches differently, by up to {apart:.2g} in log-odds: is dropout active in it, or noise drawn? "
            "no number repeats, and attacks look weaker than they are",
            stacklevel=2,
        )
    pair = values.shape[1] == 2
    sums_to_one = pair and bool((values.sum(1) - 1).abs().max() < 1e-3)
    several = not pair and len(patches) >= SEVERAL and values.min() < values.max()  # a constant answer is no sigmoid's
    if ((values >= 0) & (values <= 1)).all() and (sums_to_one or several):
        squashed, remedy = ("softmax", "log(p)") if pair else ("sigmoid", "torch.logit(p, 1e-6)")
        instead = f"return what is before the {squashed}, or {remedy} with output='{'logits' if pair else 'logit'}'"
        raise ValueError(f"the model returned probabilities, not output={detector.output!r}: {instead}")


def warn_if_swapped(table: pd.DataFrame) -> None:
    """Warn when a table of `stress.summarise` says that most clean positives and most clean negatives are taken for the other class."""
    wrong = table[(table["test"] == "clean") & table["kind"].isin(["positives", "negatives"])]["share_wrong"]
    if (wrong > SWAPPED).all():
        shares = f"{wrong.iloc[0]:.0%} of the clean positives and {wrong.iloc[1]:.0%} of the clean negatives"
        warnings.warn(f"the model is wrong on {shares}: are its two columns swapped, or is its logit that of no nodule?", stacklevel=2)


def check_mode(model: object, name: str) -> None:
    """Raises ValueError for a network in training mode, called `name`; a plain function that hides one passes."""
    if isinstance(model, nn.Module) and any(getattr(module, "training", False) for module in model.modules()):
        raise ValueError(f"the {name} is in training mode, in which dropout and batch norm do not answer as they will in use: call .eval()")


def wrap_classifier(classifier: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """A classifier with `predict_proba` over flattened patches (N, D*H*W), as a model of `output` "logits" without gradients.

    Its classes must be 0 and 1. Probabilities are kept a millionth away from 0 and 1. Raises ValueError for other classes.
    """
    if list(classifier.classes_) != [0, 1]:
        raise ValueError(f"the classifier's classes are {list(classifier.classes_)}, not 0 and 1: fit it with 1 for a nodule")

    def model(patches):
        shares = classifier.predict_proba(patches.flatten(1).detach().cpu().numpy())
        return torch.from_numpy(np.clip(shares, 1e-6, 1 - 1e-6)).log()

    return model
