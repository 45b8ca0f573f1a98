"""Models of other libraries, as they come."""

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.testing import assert_close

import eigenscope as es

pytestmark = pytest.mark.peer


def tiny_gpt2() -> Any:
    transformers: Any = importlib.import_module("transformers")
    config = transformers.GPT2Config(
        vocab_size=7,
        n_positions=6,
        n_embd=4,
        n_layer=1,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(1)
        return transformers.GPT2LMHeadModel(config).double().eval()


def padded_batches() -> list[dict[str, Tensor]]:
    source = torch.Generator().manual_seed(2)
    batches: list[dict[str, Tensor]] = []
    for size, length in ((1, 3), (3, 5), (2, 4)):
        tokens = torch.randint(1, 7, (size, length), generator=source)
        mask = torch.ones_like(tokens)
        mask[-1, length - 2 :] = 0
        labels = tokens.masked_fill(mask == 0, -100)
        batches.append({"input_ids": tokens, "attention_mask": mask, "labels": labels})
    return batches


def oracle(model: Any, batches: list[dict[str, Tensor]]) -> Tensor:
    """The Hessian of the mean over all tokens that are predicted, row by row."""
    leaves = list(model.parameters())
    with sdpa_kernel(SDPBackend.MATH):
        total, count = torch.zeros((), dtype=torch.float64), 0
        for batch in batches:
            inputs = {k: v for k, v in batch.items() if k != "labels"}
            logits = model(**inputs).logits[:, :-1].flatten(0, 1)
            wanted = batch["labels"][:, 1:].flatten()
            kept = wanted != -100
            total = total + functional.cross_entropy(
                logits[kept], wanted[kept], reduction="sum"
            )
            count += int(kept.sum())
        first = torch.autograd.grad(total / count, leaves, create_graph=True)
        flat = torch.cat([g.flatten() for g in first])
        rows: list[Tensor] = []
        for entry in flat:
            found = torch.autograd.grad(entry, leaves, retain_graph=True)
            rows.append(torch.cat([g.flatten() for g in found]))
        return torch.stack(rows)


def test_a_language_model_of_transformers_and_its_batches_work_as_they_are():
    model, batches = tiny_gpt2(), padded_batches()
    problem = es.Problem(model, batches, loss=es.next_token_loss)
    operator = es.Hessian(problem)
    matrix = oracle(model, batches)
    source = torch.Generator().manual_seed(3)
    block = torch.randn(len(matrix), 2, generator=source, dtype=torch.float64)
    # Sums of some hundred terms in float64, in other orders.
    assert_close(operator @ block, matrix @ block, rtol=1e-9, atol=1e-12)
    head = es.layer_blocks(operator)["transformer.ln_f.bias"]
    rows = operator.layout.columns["transformer.ln_f.bias"]
    assert_close(head.dense(), matrix[rows, rows], rtol=1e-9, atol=1e-12)
    spectrum = es.spectrum(es.GaussNewton(problem))
    assert float(spectrum.values.min()) > -1e-12
    assert len(list(model.parameters())) == len(problem.params)
