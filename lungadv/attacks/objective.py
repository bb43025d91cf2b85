"""The caller's loss as a search sees it: one checked value a sample, and its gradient with respect to the points alone."""

import contextlib
from collections.abc import Callable
from dataclasses import replace

import torch

from .state import State
from .tensors import at_least_float32

__all__ = ["Objective"]


class Objective:
    """`loss` (batch, *context) -> (N,), to be ascended. The batch is one tensor where `single`, else a tuple of tensors.

    With `autocast`, a type such as torch.bfloat16, the loss runs under torch.autocast; points and gradients keep their own type.
    """

    def __init__(self, loss: Callable[..., torch.Tensor], single: bool, autocast: torch.dtype | None = None):
        self.loss, self.single, self.autocast = loss, single, autocast

    def __call__(self, points: tuple, context: tuple) -> torch.Tensor:
        """The loss of each sample, (n,), at least float32. Raises ValueError for any other shape."""
        kind = points[0].device.type
        with contextlib.nullcontext() if self.autocast is None else torch.autocast(kind, self.autocast):
            values = self.loss(points[0] if self.single else points, *context)
        if not torch.is_tensor(values):
            raise ValueError(f"the loss returned a {type(values).__name__}: return a tensor, one value a sample")
        if values.shape != points[0].shape[:1]:
            raise ValueError(
                f"the loss returned shape {tuple(values.shape)}, not ({len(points[0])},): one value a sample, neither mean nor sum"
            )
        return values.to(at_least_float32(values.dtype))

    def evaluate(self, state: State) -> State:
        """The state with its loss, without gradients."""
        with torch.no_grad():
            copies = tuple(points.clone() for points in state.points)  # a loss may work in place
            return replace(state, loss=self(copies, state.context), gradients=())

    def differentiate(self, state: State) -> State:
        """The state with its loss and gradients; each sample's loss depends on that sample only.

        Raises ValueError under torch.inference_mode and for a loss that does not depend on the points.
        """
        if torch.is_inference_mode_enabled():
            raise ValueError("gradients cannot be taken under torch.inference_mode: call the attack outside of it")
        with torch.enable_grad():
            points = tuple(tensor.detach().requires_grad_() for tensor in state.points)
            loss = self(points, state.context)
            gradients = torch.autograd.grad(loss.sum(), points, allow_unused=True) if loss.requires_grad else (None,)
        if any(gradient is None for gradient in gradients):
            raise ValueError("the loss does not depend on the batch: is something in it detached, or computed under torch.no_grad?")
        return replace(state, loss=loss.detach(), gradients=gradients)
