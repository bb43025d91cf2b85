"""Models that the tests of the evaluation share: linear ones whose worst input is known, and ones broken on purpose."""

import numpy as np
import torch
from torch import nn

SIZE = 8


TERMS = {"eps": 0.02, "steps": 10, "queries": 80, "radii": (0.01, 0.05, 0.3), "noise": 2}


def random(*shape, seed=0, **options):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), **options)


class Template(nn.Module):
    """Log-odds `gain` * <x - 0.5, template> + `bias`, given out as evidence, one logit or two."""

    def __init__(self, output="evidence", seed=0, gain=1.0, bias=0.0, size=SIZE):
        super().__init__()
        self.output, self.gain, self.bias = output, gain, bias
        self.template = nn.Parameter(torch.randn(size, size, size, generator=torch.Generator().manual_seed(seed)))
        self.eval()

    def forward(self, x):
        odds = self.gain * ((x - 0.5) * self.template).sum(dim=(1, 2, 3, 4)) + self.bias
        if self.output == "logit":
            return odds
        if self.output == "logits":
            return torch.stack([torch.zeros_like(odds), odds], 1)
        return torch.stack([odds.clamp(min=0).expm1(), (-odds).clamp(min=0).expm1()], 1)  # ln((e+ + 1) / (e- + 1)) = odds


class Detached(Template):
    """A network that lost its gradient."""

    def forward(self, x):
        return super().forward(x).detach()


class Fragile(Template):
    """A template behind a batch norm and dropout; may fail when called."""

    def __init__(self, fails=False):
        super().__init__("logit")
        self.norm, self.dropout, self.fails = nn.BatchNorm3d(1), nn.Dropout(0.5), fails

    def forward(self, x):
        if self.fails:
            raise RuntimeError("out of order")
        return super().forward(self.dropout(self.norm(x)))


class Rounding(Template):
    """Grey levels of 1/15: the gradient is zero everywhere."""

    def forward(self, x):
        return super().forward((15 * x).round() / 15)


class Shuffled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient.roll((1, 3), (2, 4))


class Misled(Template):
    """A gradient that is there, and wrong."""

    def forward(self, x):
        return super().forward(Shuffled.apply(x))


class Saturated(Template):
    """A probability that is cut off before it is made a logit again."""

    def forward(self, x):
        return torch.logit((20 * super().forward(x)).sigmoid().clamp(0.001, 0.999))


class Dropping(Template):
    """Dropout that nobody can switch off."""

    def forward(self, x):
        return super().forward(nn.functional.dropout(x - 0.5, 0.3) + 0.5)


class Flipped(torch.autograd.Function):
    """The gradient's sign is wrong in 40 % of the voxels."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return torch.where(random(*gradient.shape[2:], seed=5) < 0.4, -gradient, gradient)


class PartlyWrong(Template):
    """A gradient that leads in the right direction, and less far than it could."""

    def forward(self, x):
        return super().forward(Flipped.apply(x))


class StraightThrough(Template):
    """Grey levels of 1/15, with the gradient of a model that does not round."""

    def forward(self, x):
        return super().forward(((15 * x).round() / 15 - x).detach() + x)


class Mean(nn.Module):
    """The mean grey level, the same gradient in every voxel."""

    def forward(self, x):
        return 200 * (x.mean(dim=(1, 2, 3, 4)) - 0.49)


class Unclamped(Template):
    """A probability made a logit again: infinite beyond log-odds of 17 and lower than -104."""

    def forward(self, x):
        return torch.logit((2 * super().forward(x)).sigmoid())


class InPlace(Template):
    """Works in place on what it is given."""

    def forward(self, x):
        x -= 0.5
        x += 0.5
        x.clamp_(0, 1).mul_(2)
        return super().forward(x / 2)


class Shares:
    """What a classifier of scikit-learn offers."""

    classes_ = [0, 1]

    def predict_proba(self, rows):
        assert isinstance(rows, np.ndarray) and rows.ndim == 2
        odds = (rows - 0.5) @ Template().template.detach().numpy().ravel()
        share = 1 / (1 + np.exp(-odds))
        return np.stack([1 - share, share], 1)


class Balls(nn.Module):
    """A synthesizer of balls: code 0 moves the radius, code 1 the brightness."""

    latent_size = 3

    def draw(self, count, generator):
        return torch.randn(count, self.latent_size, generator=generator)

    def forward(self, z):
        grid = torch.stack(torch.meshgrid(*[torch.arange(16.0) - 7.5] * 3, indexing="ij")).norm(dim=0)
        radius, brightness = 2.5 + 0.8 * z[:, 0], torch.sigmoid(z[:, 1])
        mask = torch.sigmoid(3 * (radius.reshape(-1, 1, 1, 1, 1) - grid))
        return mask * brightness.reshape(-1, 1, 1, 1, 1), mask
