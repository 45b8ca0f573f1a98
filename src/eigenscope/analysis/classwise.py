"""The Gauss-Newton matrix of a classifier by classes: where its outliers come from."""

from dataclasses import dataclass
from functools import partial
from typing import Final, final

import torch
from jaxtyping import Float
from torch import Tensor

from eigenscope.budget import require_fits
from eigenscope.losses import Categorical, CrossEntropy
from eigenscope.operators import (
    Combination,
    Dense,
    GaussNewton,
    Gram,
    Hessian,
    ParameterJacobian,
    SymmetricOperator,
    gram,
)
from eigenscope.problem import Batch, Halving, Problem, left_as_found

_TOGETHER: Final = 128  # samples whose cotangents are made together


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClassDecomposition:
    """G = G₀ + G₁ + G₂ + G₃ of a classifier with C classes under cross-entropy.

    With p the softmax of the logits z of sample i, Λ = Σ_c' p_c' (e_c' - p)(e_c' - p)ᵀ,
    so G = Σ_i Σ_c' w_ic' g_ic' g_ic'ᵀ with g_ic' = Jᵢᵀ(e_c' - pᵢ), the gradient of the
    loss if c' were not the label, with the other sign, and w_ic' = mᵢ p_ic' / Σ m for
    class weights m. δ_cc' is the weighted mean of g_ic' over the samples of class c,
    π_cc' the sum of their weights, δ_c the mean of δ_cc' over c' ≠ c by these weights
    and π_c their sum. Then

    - G₀ = Σ_c π_cc δ_cc δ_ccᵀ, of rank C at most, small for a trained network;
    - G₁ = Σ_c π_c δ_c δ_cᵀ, of rank C: the means of classes;
    - G₂ = Σ_{c≠c'} π_cc' (δ_cc' - δ_c)(δ_cc' - δ_c)ᵀ, of rank C(C - 2): means of pairs
      of classes around those of classes;
    - G₃ = Σ_i Σ_c' w_ic' (g_ic' - δ_cc')(g_ic' - δ_cc')ᵀ, what varies within pairs.

    All are positive semi-definite. Outliers of G that are near eigenvalues of G₀ + G₁
    + G₂ are explained by means of classes.

    Attributes:
        means: δ_cc', zeros where no sample has class c.
        weights: π_cc'.
        own: G₀.
        classes: G₁.
        cross: G₂.
        between: G₀ + G₁ + G₂, as one Gram matrix of the C² means.
        within: G₃ = G - G₀ - G₁ - G₂.
        total: G.

    Example:
        >>> net = torch.nn.Linear(3, 2).double()
        >>> data = (torch.ones(4, 3, dtype=torch.float64), torch.tensor([0, 1, 0, 1]))
        >>> G = GaussNewton(Problem(net, data, loss=torch.nn.CrossEntropyLoss()))
        >>> parts = decompose_by_class(G)
        >>> rest = parts.within.dense().abs().max()  # the samples are all alike
        >>> parts.means.shape, round(float(parts.weights.sum()), 9), bool(rest < 1e-12)
        (torch.Size([2, 2, 8]), 1.0, True)
    """

    means: Float[Tensor, "class other param"]
    weights: Float[Tensor, "class other"]
    own: Gram
    classes: Gram
    cross: Gram
    between: Gram
    within: SymmetricOperator
    total: GaussNewton


def decompose_by_class(
    operator: GaussNewton | Hessian, *, memory: str | int | None = None
) -> ClassDecomposition:
    """G₀ + G₁ + G₂ + G₃ = G, the three-level structure of a classifier's curvature.

    Args:
        operator: The Gauss-Newton matrix of a cross-entropy with classes as targets,
            or a diagonal block of it; of a Hessian its Gauss-Newton matrix is taken.
        memory: Budget such as "4GiB"; None for half of what is available.

    Returns:
        The parts as operators, and the means they are made of.

    Raises:
        TypeError: If it is another operator.
        ValueError: If the loss is no cross-entropy with classes as targets, or the
            means do not fit the budget.

    Cost:
        One forward pass and one with a backward pass for each logit; C² · P numbers
        for the means, and n · k · C² for what is pulled back. Eigenvalues of the first
        three parts are those of matrices of C² rows.

    References:
        Papyan (2019), Measurements of three-level hierarchical structure in the
        outliers in the spectrum of deepnet Hessians, ICML.

    Example:
        >>> net = torch.nn.Linear(2, 2, bias=False).double()
        >>> torch.nn.init.zeros_(net.weight).tolist()
        [[0.0, 0.0], [0.0, 0.0]]
        >>> data = (torch.eye(2, dtype=torch.float64), torch.arange(2))
        >>> loss = torch.nn.CrossEntropyLoss()
        >>> parts = decompose_by_class(GaussNewton(Problem(net, data, loss=loss)))
        >>> float(parts.classes.diagonal().sum()), float(parts.own.diagonal().sum())
        (0.25, 0.25)
    """
    total, loss = require_classes(operator)
    num_classes = loss.arrange(total.risk.examples[0][1]).shape[1]
    _require_room(total, num_classes, memory)
    total.risk.require_same_model()
    bare = total.problem.with_output("logits")
    shape = (bare.num_samples, bare.num_outputs, num_classes**2)
    seeds = torch.zeros(shape, dtype=total.dtype, device=total.device)
    weights = torch.zeros(num_classes, num_classes, dtype=torch.float64)
    halving, work = Halving("means of classes"), partial(_add, loss, bare)
    with bare.ranks.sum_over_ranks(seeds):
        for batch in bare.batches.chunks(_TOGETHER):
            halving.run(partial(work, seeds, weights), batch)
    with bare.ranks.sum_over_ranks(weights):
        pass  # added up above
    scale = 1 / total.risk.denominator
    found = ParameterJacobian(bare).T @ seeds.flatten(0, 1)
    weights = (weights * scale).to(found.device, found.dtype)
    sums = found.T.unflatten(0, (num_classes, num_classes)) * scale
    means = sums / torch.where(weights > 0, weights, 1.0).unsqueeze(2)
    return _decomposed(total, means, weights)


def require_classes(operator: object) -> tuple[GaussNewton, CrossEntropy]:
    """Return the Gauss-Newton matrix that can be decomposed by classes, and its loss.

    Args:
        operator: It, or the Hessian of the same loss.

    Returns:
        Both.

    Raises:
        TypeError: If it is another operator.
        ValueError: If the loss is no cross-entropy with classes as targets.
    """
    total = operator.comparison.gauss_newton if isinstance(operator, Hessian) else None
    total = operator if isinstance(operator, GaussNewton) else total
    if not isinstance(total, GaussNewton):
        raise TypeError(
            "the decomposition by classes is of a GaussNewton or Hessian operator; got "
            f"{type(operator).__name__}. Make one: es.GaussNewton(problem)."
        )
    return total, _cross_entropy(total)


def _decomposed(
    total: GaussNewton, means: Tensor, weights: Tensor
) -> ClassDecomposition:
    """The parts that follow from the means of pairs."""
    roots = weights.sqrt().unsqueeze(2)
    others = weights.clone().fill_diagonal_(0)
    sizes = others.sum(1, keepdim=True)
    shares = others / torch.where(sizes > 0, sizes, 1.0)
    centers = torch.einsum("co,cop->cp", shares, means)
    around = (means - centers.unsqueeze(1)) * others.sqrt().unsqueeze(2)
    own = (means * roots).diagonal(dim1=0, dim2=1).T
    between = _gram((means * roots).flatten(0, 1))
    return ClassDecomposition(
        means=means,
        weights=weights,
        own=_gram(own),
        classes=_gram(centers * sizes.sqrt()),
        cross=_gram(around.flatten(0, 1)),
        between=between,
        within=Combination([(1.0, total), (-1.0, between)]),
        total=total,
    )


def _gram(rows: Float[Tensor, "row param"]) -> Gram:
    return gram(Dense(rows.contiguous()), side="columns")


def _cross_entropy(total: GaussNewton) -> CrossEntropy:
    loss = total.risk.loss
    batch, _ = total.risk.examples[0]
    given = loss.name
    if isinstance(loss, CrossEntropy):
        if not batch.targets.is_floating_point():
            return loss
        given += " with probabilities as targets"
    raise ValueError(
        "the decomposition by classes needs a cross-entropy with classes as targets; "
        f"got {given}. Other losses have no classes to take means over."
    )


def _require_room(
    total: GaussNewton, num_classes: int, memory: str | int | None
) -> None:
    problem = total.problem
    numbers = problem.num_samples * problem.num_outputs + 3 * total.shape[0]
    needed = numbers * num_classes**2 * total.dtype.itemsize
    require_fits(
        needed,
        memory,
        what=f"the means of {num_classes}² pairs of classes",
        way_out="or take a layer: es.layer_blocks(G)[name]",
    )


def _add(
    loss: CrossEntropy, problem: Problem, seeds: Tensor, weights: Tensor, batch: Batch
) -> None:
    """Write what is pulled back of some samples, and add the weights of pairs."""
    with torch.no_grad(), left_as_found(problem.model):
        raw = problem.raw(batch.inputs)
        matrix, labels = loss.curvature(raw, batch.targets), loss.classes(batch.targets)
        rows = slice(batch.start, batch.start + batch.size)
        seeds[rows] = _pulled(matrix, labels, len(weights))
        weights += _pair_weights(matrix, labels, len(weights))


def _members(labels: Tensor, num_classes: int) -> Tensor:
    """Return 1 where a position has the class, (class, sample, position)."""
    return torch.stack([labels == c for c in range(num_classes)])


def _pulled(
    matrix: Categorical, labels: Tensor, num_classes: int
) -> Float[Tensor, "sample output pair"]:
    """Return m p_c' (e_c' - p) at the positions of class c, for all pairs (c, c')."""
    columns: list[Tensor] = []
    members = _members(labels, num_classes)
    for other in range(num_classes):
        unit = torch.zeros_like(matrix.probabilities)
        unit[:, other] = 1
        # Λ e_c' = m p_c' (e_c' - p).
        images = matrix.mass * (unit - matrix.probabilities)
        images = images * matrix.probabilities[:, other : other + 1]
        columns += [
            matrix.restored(images * own.unsqueeze(1)).flatten(1) for own in members
        ]
    stacked = torch.stack(columns, 2).unflatten(2, (num_classes, num_classes))
    return stacked.transpose(2, 3).flatten(2)


def _pair_weights(
    matrix: Categorical, labels: Tensor, num_classes: int
) -> Float[Tensor, "class other"]:
    weighted = (matrix.mass * matrix.probabilities).double().cpu()
    members = _members(labels, num_classes).double().cpu()
    return torch.einsum("cst,sot->co", members, weighted)
