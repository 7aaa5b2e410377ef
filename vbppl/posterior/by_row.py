"""What a posterior can be asked where each row of a plate is judged by itself: a part of `Posterior`."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from vbppl.core.errors import of_kind, whole_number
from vbppl.core.keys import raw_key
from vbppl.core.types import PyTree, Seed
from vbppl.guides import networks
from vbppl.guides.base import Guide
from vbppl.model.model import Model
from vbppl.model.shapes import as_numbers
from vbppl.posterior import row_evidence
from vbppl.target.target import Target, probabilities, with_data


class ByRow:
    """Questions about rows, those that were fitted or others."""

    target: Target
    guide: Guide
    phi: PyTree

    def log_evidence(
        self, model: Model | None = None, guide: Model | None = None, n: int = 5000, seed: Seed = 0
    ) -> row_evidence.RowEvidence:
        """The log evidence of each row by itself, by importance sampling: the test log likelihood of a VAE.

        For models all of whose sites stand in one plate. The estimate is a bound that rises with `n`.

        Args:
          model: the same function applied to other rows; the fitted ones if None.
          guide: where the guide is a program, it applied to them.
          n: draws a row; they are made in chunks, so that memory does not grow with them.
          seed: of the draws.
        """
        check_count(n)
        target, moved = self._moved(model, guide)
        return row_evidence.row_evidence(moved, self.phi, target, raw_key(seed), n)

    def amortisation_gap(
        self, model: Model | None = None, guide: Model | None = None, rows: int = 200, seed: Seed = 0
    ) -> row_evidence.AmortisationGap:
        """What the encoder loses against the best normal of each row, in nats a row.

        Args:
          model: the same function applied to other rows; the fitted ones if None.
          guide: where the guide is a program, it applied to them.
          rows: how many to look at, chosen at random by `seed`.
        """
        whole_number("rows", rows)
        target, moved = self._moved(model, guide)
        return row_evidence.amortisation_gap(moved, self.phi, target, raw_key(seed), rows)

    def _moved(self, model: Model | None, guide: Model | None) -> tuple[Target, Guide]:
        """Target and guide at other rows."""
        if model is None:
            return self.target, self.guide
        return with_data(self.target, model), networks.with_data(self.guide, guide)

    def probabilities(self, name: str, n: int = 200, seed: Seed = 0) -> np.ndarray:
        """The probability of each value of a discrete latent site: which component, state or class a row has.

        >>> import numpy as np, vbppl as vb, vbppl.distributions as dist
        >>> @vb.model
        ... def two_groups(y):
        ...     loc = vb.sample("loc", dist.Normal(np.array([-2.0, 2.0]), 1.0).to_event(1))
        ...     with vb.plate("row", len(y)):
        ...         group = vb.sample("group", dist.Categorical(np.array([0.5, 0.5])))
        ...         vb.sample("y", dist.Normal(loc[group], 1.0), obs=y)
        >>> posterior = vb.fit(two_groups(np.array([-2.1, 1.9, 2.3])), "full_rank")
        >>> posterior.probabilities("group").argmax(axis=-1)
        array([0, 1, 1])

        Args:
          name: of the site.
          n: how many draws of the other sites it is averaged over; given each it is exact.
          seed: of these.

        Returns:
          `(*shape, values)` for a site of that shape, its values in order from the least, as 0 and 1 of a Bernoulli.

        Raises:
          KeyError: no discrete site has that name.
        """
        whole_number("n", n)
        of_kind("name", name, isinstance(name, str), "the name of a discrete latent site")
        if name not in self.target.layout.summed:
            known = ", ".join(self.target.layout.summed) or "none"
            raise KeyError(f"no site that is summed out is called {name!r:.80}; those of the model: {known}.")
        return probabilities(self.target, name, self._latent(n, seed), n)

    def _latent(self, n: int, seed: Seed = 0) -> dict[str, Any]:
        """Draws: see `Posterior`."""
        raise NotImplementedError

    def encode(self, rows: Any) -> Any:
        """What an amortised guide says of rows that it may never have seen.

        Args:
          rows: what the encoder reads, with the rows along the first axis.

        Returns:
          a `Normal` with the `loc` and `scale` of each row's latent variable in unconstrained space,
          `(rows, ...)`; its `sample(key, (n,))` draws from it.

        Raises:
          TypeError: the guide has no encoder.
        """
        given = jax.tree.map(lambda leaf: leaf if isinstance(leaf, jax.Array) else as_numbers(leaf, "rows"), rows)
        networks.check_rows(self.guide, self.target, given)
        return networks.encode(self.guide, self.phi, given)


def check_count(n: int) -> None:
    """Refuse to draw nothing, or a part of a draw."""
    whole_number("n", n)
