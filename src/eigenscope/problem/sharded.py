"""Models whose parameters are in pieces on several processes."""

from torch import nn

from eigenscope.distributed import is_in_pieces


def require_whole_parameters(model: nn.Module) -> None:
    """Raise if a parameter is a DTensor, as FSDP2 and tensor parallelism make them.

    Args:
        model: The network.

    Raises:
        ValueError: Naming the first such parameter.
    """
    for name, parameter in model.named_parameters():
        if is_in_pieces(parameter):
            raise ValueError(
                "every rank must hold the whole parameters; "
                f"{name!r} is a DTensor, of which each holds a piece (FSDP2, tensor "
                "parallelism), and products by pieces cannot be taken. Load the full "
                "state dict into the plain model: get_model_state_dict(model, options="
                "StateDictOptions(full_state_dict=True)); samples are then shared by "
                "the ranks."
            )
