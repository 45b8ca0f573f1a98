"""What the numbers of a recorder count in another library's trainer."""

from typing import Literal

CountedBy = Literal["epoch", "step"]
