"""Cross-entropy of logits with classes or probabilities, in closed form."""

from typing import Any, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from eigenscope.losses.base import FisherKind, RiskLoss
from eigenscope.losses.output_matrix import Categorical, Directions, OutputMatrix
from eigenscope.precision import wide_sum, widened


def next_token_loss(
    logits: Float[Tensor, "sample position class"],
    labels: Int64[Tensor, "sample position"],
    *,
    ignore_index: int = -100,
) -> tuple[Float[Tensor, ""], Int64[Tensor, ""]]:
    """(Σ_t -log p_t(label_{t+1}), number of these terms) of a causal language model.

    Position t predicts label t + 1; ignored labels (padding) have no term, so over a
    data set every predicted token counts the same. As `loss` of a `Problem` it is known
    in closed form. Use `functools.partial` for another `ignore_index`.

    Args:
        logits: Scores of the vocabulary after each position.
        labels: The tokens themselves, not shifted.
        ignore_index: Label of positions that are not to be predicted.

    Returns:
        The sum and the count.

    Example:
        >>> logits = torch.zeros(1, 3, 4)
        >>> total, count = next_token_loss(logits, torch.tensor([[0, 1, -100]]))
        >>> round(total.item(), 4), count.item()
        (1.3863, 1)
    """
    predicted, wanted = logits[:, :-1].transpose(1, 2), labels[:, 1:]
    total = functional.cross_entropy(
        predicted, wanted, ignore_index=ignore_index, reduction="sum"
    )
    return total, (wanted != ignore_index).sum()


@final
class CrossEntropy(RiskLoss):
    """-Σ_c w_c q_c log p_c at every position, q the (smoothed) target.

    A position has the mass m = Σ_c w_c q_c: its second derivative by the logits is
    m (diag p - ppᵀ), and read as a likelihood it is m times the negative
    log-likelihood of one draw from p.

    Args:
        weight: Weight of each class.
        ignore_index: Class of positions without a term.
        label_smoothing: Share of the target that is spread over all classes.
        is_mean: Whether terms are averaged.
        next_token: Whether logits are (sample, position, class) and predict the label
            of the next position.
    """

    def __init__(
        self,
        *,
        weight: Tensor | None,
        ignore_index: int,
        label_smoothing: float,
        is_mean: bool,
        next_token: bool = False,
    ) -> None:
        self.name = "next_token_loss" if next_token else "cross-entropy"
        self.is_mean = is_mean
        self._weight = weight
        self._ignored = ignore_index
        self._smoothing = label_smoothing
        self._next_token = next_token

    @override
    def numerator(self, raw: Tensor, targets: Any) -> Float[Tensor, ""]:
        return self._unreduced(raw, targets).sum()

    @override
    def denominator(self, raw: Tensor, targets: Any) -> float:
        wanted = self._wanted(targets)
        if wanted.is_floating_point():
            return float(wanted.numel() // wanted.shape[1])
        kept = wanted[wanted != self._ignored]
        if self._weight is None:
            return float(len(kept))
        return float(wide_sum(self._weight.to(raw.device)[kept]))

    @override
    def per_sample(self, raw: Tensor, targets: Any) -> Float[Tensor, " sample"]:
        return self._unreduced(raw, targets).reshape(len(raw), -1).sum(1)

    @override
    def require_valid(self, raw: Tensor, targets: Any, start: int) -> None:
        self._require_shapes(raw, targets)
        self._require_weights(raw)
        if targets.is_floating_point():
            return
        num_classes = raw.shape[-1 if self._next_token else 1]
        outside = (targets < 0) | (targets >= num_classes)
        outside &= targets != self._ignored
        if bool(outside.any()):
            place = outside.nonzero()[0].tolist()
            raise ValueError(
                f"targets must be classes from 0 to {num_classes - 1} (or ignore_index "
                f"= {self._ignored}); sample {start + place[0]} has "
                f"{int(targets[tuple(place)])}. Does the model have enough outputs, "
                "and do the classes start at 0?"
            )

    @override
    def curvature(self, raw: Tensor, targets: Any) -> Categorical:
        logits, mass = self.arrange(raw), self._mass(raw, targets)
        return Categorical(logits, mass, self.arrange, self._restore(raw))

    @override
    def fisher(
        self,
        kind: FisherKind,
        raw: Tensor,
        targets: Any,
        uniform: Float[Tensor, "sample *term draw"] | None,
    ) -> OutputMatrix:
        if kind == "true":
            return self.curvature(raw, targets)
        probabilities = torch.softmax(self.arrange(raw), 1)
        mass = self._mass(raw, targets).unsqueeze(1)
        if uniform is None:
            weighted = self._weighted_target(probabilities, targets)
            gradients = (mass * probabilities - weighted) / mass.sqrt()
            gradients = torch.where(mass > 0, gradients, 0).unsqueeze(0)
        else:
            steps = widened(probabilities.cumsum(1)).unsqueeze(0)
            numbers = uniform.reshape(len(raw), -1, uniform.shape[-1])
            numbers = numbers.movedim(2, 0).unsqueeze(2)
            # The last step may round below one.
            drawn = (numbers > steps[:, :, :-1]).sum(2, keepdim=True)
            drawn = drawn.to(raw.device)
            gradients = probabilities.repeat(len(drawn), 1, 1, 1)
            gradients.scatter_add_(2, drawn, -gradients.new_ones(drawn.shape))
            gradients *= mass.sqrt()
        return Directions(gradients, self.arrange, self._restore(raw))

    @override
    def draw_shape(self, targets: Any) -> tuple[int, ...]:
        wanted = self._wanted(targets)
        return tuple(wanted.shape[2 if wanted.is_floating_point() else 1 :])

    def arrange(self, raw: Tensor) -> Float[Tensor, "sample class position"]:
        """Return the logits with classes on axis 1 and all positions on axis 2."""
        logits = raw[:, :-1].transpose(1, 2) if self._next_token else raw
        return logits.reshape(len(raw), logits.shape[1], -1)

    def classes(self, targets: Tensor) -> Int64[Tensor, "sample position"]:
        """Return the class of every position; `ignore_index` where there is none."""
        return self._wanted(targets).reshape(len(targets), -1)

    def _restore(self, raw: Tensor) -> Any:
        shape = raw.shape

        def restored(arranged: Tensor) -> Tensor:
            if not self._next_token:
                return arranged.reshape(shape)
            return functional.pad(arranged.transpose(1, 2), (0, 0, 0, 1))

        return restored

    def _wanted(self, targets: Tensor) -> Tensor:
        if targets.is_floating_point():
            return targets
        return (targets[:, 1:] if self._next_token else targets).long()

    def _unreduced(self, raw: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(
            raw[:, :-1].transpose(1, 2) if self._next_token else raw,
            self._wanted(targets),
            weight=None if self._weight is None else self._weight.to(raw),
            ignore_index=self._ignored,
            label_smoothing=self._smoothing,
            reduction="none",
        )

    def _mass(self, raw: Tensor, targets: Tensor) -> Float[Tensor, "sample position"]:
        """Return Σ_c w_c q_c at every position; 0 where the target is ignored."""
        wanted = self._wanted(targets)
        if wanted.is_floating_point():
            return self._weighted_target(self.arrange(raw), targets).sum(1)
        flat = wanted.reshape(len(raw), -1)
        kept = flat != self._ignored
        weight = None if self._weight is None else self._weight.to(raw)
        own = 1.0 if weight is None else weight[torch.where(kept, flat, 0)]
        spread = 1.0 if weight is None else weight.mean()
        return kept.to(raw) * ((1 - self._smoothing) * own + self._smoothing * spread)

    def _weighted_target(
        self, like: Float[Tensor, "sample class position"], targets: Tensor
    ) -> Float[Tensor, "sample class position"]:
        """Return w_c q_c; zeros where the target is ignored."""
        wanted = self._wanted(targets)
        num_classes = like.shape[1]
        if wanted.is_floating_point():
            share = wanted.reshape(like.shape).to(like)
        else:
            flat = wanted.reshape(len(like), 1, -1)
            kept = flat != self._ignored
            places = torch.where(kept, flat, 0)
            share = torch.zeros_like(like).scatter_(1, places, kept.to(like))
        if self._smoothing:
            is_share = wanted.is_floating_point()
            spread = 1.0 if is_share else share.sum(1, keepdim=True)
            share = (1 - self._smoothing) * share
            share = share + self._smoothing / num_classes * spread
        if self._weight is not None:
            share = share * self._weight.to(like).reshape(1, -1, 1)
        return share

    def _require_shapes(self, raw: Tensor, targets: Any) -> None:
        shape = tuple(raw.shape)
        classes = shape[:2] if self._next_token else (shape[0], *shape[2:])
        found = tuple(targets.shape) if isinstance(targets, Tensor) else None
        fits = found == classes and not targets.is_floating_point()
        if not self._next_token:
            fits |= found == shape and targets.is_floating_point()
        if fits and len(shape) >= (3 if self._next_token else 2):
            return
        given = type(targets).__name__
        if found is not None:
            given = f"{targets.dtype} of shape {found}"
        shares = "" if self._next_token else f" or probabilities of shape {shape}"
        raise ValueError(
            f"{self.name} of outputs of shape {shape} needs integer targets of shape "
            f"{classes}{shares}; got {given}. The classes are on axis "
            f"{2 if self._next_token else 1} of the output."
        )

    def _require_weights(self, raw: Tensor) -> None:
        """Raise unless there is a weight for every class."""
        if self._weight is None:
            return
        found, needed = tuple(self._weight.shape), (raw.shape[1],)
        if found != needed:
            raise ValueError(
                f"weight of {self.name} must have one entry for each class on axis 1 "
                f"of the output, shape {needed}; got shape {found}."
            )
