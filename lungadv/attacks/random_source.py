"""Random numbers for a batch: of one generator for all samples, or of one seed a sample."""

from collections.abc import Callable, Sequence

import torch

__all__ = ["RandomSource"]


class RandomSource:
    """Random numbers for the N samples of `start`, on its device.

    A generator draws one tensor for all samples at once. With `seeds`, N whole numbers, each sample draws from a generator of its own:
    its numbers do not depend on the batch. With neither, torch's global generator is used.

    Raises ValueError for a generator on another device, a number of seeds other than N, or both a generator and seeds.
    """

    def __init__(self, start: torch.Tensor, generator: torch.Generator | None = None, seeds: Sequence[int] | torch.Tensor | None = None):
        if generator is not None and not isinstance(generator, torch.Generator):
            raise ValueError(f"generator is {generator!r}: give torch.Generator().manual_seed(...), or nothing")
        if generator is not None and generator.device.type != start.device.type:
            place = f"make it with torch.Generator('{start.device}')"
            raise ValueError(f"the generator is on {generator.device}, start on {start.device}: {place}")
        if seeds is not None and (generator is not None or len(seeds) != len(start)):
            raise ValueError(f"seeds: give one whole number for each of the {len(start)} samples, and no generator beside them")
        self.generator = generator
        self.own = None if seeds is None else [torch.Generator(start.device).manual_seed(int(seed)) for seed in seeds]

    def uniform(self, shape: Sequence[int], like: torch.Tensor) -> torch.Tensor:
        """Numbers uniform in [0, 1), of shape (N, ...) and the type of `like`."""
        return self._draw(torch.rand, shape, like)

    def normal(self, shape: Sequence[int], like: torch.Tensor) -> torch.Tensor:
        """Standard normal numbers, of shape (N, ...) and the type of `like`."""
        return self._draw(torch.randn, shape, like)

    def _draw(self, kind: Callable, shape: Sequence[int], like: torch.Tensor) -> torch.Tensor:
        options = {"dtype": like.dtype, "device": like.device}
        if not self.own:  # nor for an empty batch, of which nothing can be stacked
            return kind(shape, generator=self.generator, **options)
        return torch.stack([kind(shape[1:], generator=own, **options) for own in self.own])
