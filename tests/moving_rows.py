"""Networks in which the data decide which sample a row belongs to, and five samples."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Experts(nn.Module):
    """Rows go to one of two layers by their data: no layer knows its samples."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList([nn.Linear(4, 3), nn.Linear(4, 3)])

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, 1)
        result = torch.zeros(len(rows), 3, dtype=x.dtype)
        chosen = (rows[:, 0] > 0).long()
        for number, expert in enumerate(self.experts):
            (places,) = torch.nonzero(chosen == number, as_tuple=True)
            result = result.index_add(0, places, expert(rows[places]))
        return result.unflatten(0, x.shape[:2]).sum(1)


class Dispatched(nn.Module):
    """Experts as mixtures of them are often written: a matrix of ones sends rows."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.experts = nn.ModuleList([nn.Linear(4, 3), nn.Linear(4, 3)])

    def forward(self, x: Tensor) -> Tensor:
        chosen = functional.one_hot((x[:, 0] < 0).long(), 2)
        places = chosen * (chosen.cumsum(0) - 1)
        sent = functional.one_hot(places, len(x)).to(x) * chosen.unsqueeze(2)
        rows = torch.einsum("nec,nd->ecd", sent, self.first(x))
        found = [expert(own) for expert, own in zip(self.experts, rows, strict=True)]
        return torch.einsum("nec,ecd->nd", sent, torch.tanh(torch.stack(found)))


class Packed(nn.Module):
    """Samples of different lengths one after the other, without padding."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        sizes = lengths.tolist()
        rows = torch.cat([x[i, :size] for i, size in enumerate(sizes)])
        parts = torch.tanh(self.layer(rows)).split(sizes)
        return self.head(torch.stack([part.sum(0) for part in parts]))


def signed() -> Tensor:
    signs = torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0], dtype=torch.float64)
    return torch.rand(5, 4, dtype=torch.float64) * signs.unsqueeze(1)


def ragged() -> dict[str, Tensor]:
    x = torch.randn(5, 3, 4, dtype=torch.float64)
    return {"x": x, "lengths": torch.tensor([2, 2, 1, 3, 2])}
