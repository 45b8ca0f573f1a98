"""Optional dependencies: imported when needed, with a message when absent."""

import importlib
from types import ModuleType


def require_extra(module: str, extra: str) -> ModuleType:
    """Import an optional dependency, or say which `pip install` brings it.

    Args:
        module: The module to import, such as `"torchvision.datasets"`.
        extra: The extra of this package that installs it.

    Returns:
        The imported module.

    Raises:
        ImportError: If the module's package is not installed.
        ModuleNotFoundError: If the package is there and one that it needs is not.

    Example:
        >>> require_extra("math", "vision").sqrt(4.0)
        2.0
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name != package:
            raise  # installed, but one of its own imports is missing
        raise ImportError(
            f"{package} is needed here and is not installed; "
            f"run: pip install 'eigenscope[{extra}]'",
            name=package,
        ) from error
