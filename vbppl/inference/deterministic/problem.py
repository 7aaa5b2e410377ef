"""What can be asked of a deterministic fit."""

from __future__ import annotations

import dataclasses

import numpy as np

from vbppl.core.errors import ModelError
from vbppl.guides.gaussian import FullRank, Gaussian


@dataclasses.dataclass(frozen=True)
class Deterministic:
    """Fixed moment-exact draws of all rows, maximised to the end.

    Attributes:
      draws: how many to begin with, an even number; None for enough. They grow while they matter.
      kind: "auto" (whitened where there are enough of them, else a Latin hypercube), "latin_hypercube", or
        "independent", which is there to be compared with. Full rank needs "auto".
      precision: "float64" fits in double precision whatever the session's is, and gives back a posterior in the
        session's; None for the session's.
    """

    draws: int | None = None
    kind: str = "auto"
    precision: str | None = None

    def __post_init__(self) -> None:
        if self.draws is not None and (self.draws < 2 or self.draws % 2):
            raise ValueError(f"draws come in antithetic pairs: an even number from 2 on, not {self.draws}.")
        if self.kind not in ("auto", "latin_hypercube", "independent"):
            raise ValueError(f"kind must be 'auto', 'latin_hypercube' or 'independent', not {self.kind!r}.")
        if self.precision not in (None, "float64"):
            raise ValueError(f"precision must be None or 'float64', not {self.precision!r}.")


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is asked of a deterministic fit.

    Attributes:
      guides: the families to choose from, by what each gains: mean field, full rank or both.
      method: how the draws are made.
      centred: the coordinates to choose from, `(choices, movable sites)`.
      start: mean and log sd to begin with in each of the coordinates, `(choices, 2, dim)`; None to look for starts.
    """

    guides: tuple[Gaussian, ...]
    method: Deterministic
    centred: np.ndarray
    start: np.ndarray | None = None

    def check(self, dim: int) -> None:
        """Refuse fixed draws on which a full-rank guide has no maximum."""
        draws = self.method.draws
        if not any(isinstance(guide, FullRank) for guide in self.guides):
            return
        if draws is not None and draws < 2 * dim:
            raise ModelError(
                f"a full-rank guide of {dim} dimensions cannot be fitted on {draws} fixed draws: "
                f"with fewer draws than dimensions the bound has no maximum, and below {2 * dim} no exact moments.",
                mend=f"Give at least {2 * dim} draws, or leave draws=None.",
            )
        if self.method.kind != "auto":
            raise ModelError(
                f"a full-rank guide needs draws with exact second moments, and {self.method.kind!r} draws have none.",
                mend="Leave kind='auto', or fit a mean-field guide.",
            )
