"""The models that a service offers to train for and to paint with: names, weights, recipes.

A file of JSON, `{"NAME": {"weights": ..., "recipe": ...}, ...}`, or the miniature alone. Loads no
torch: the API reads it, too, and never opens weights.
"""

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, TypeAdapter, ValidationError

from dti_engine.config import DtypeName
from dti_engine.recipes import RECIPES
from services.contracts.jobs import Label, Model
from services.errors import SettingsError, UnknownModelError


class Painting(Model):
    """How a model is painted with."""

    pictures: int | None = Field(
        default=None,
        ge=1,
        le=256,
        description="in one call of the model; None: as many as are worth it, which is tried out",
    )
    waiting: int = Field(
        default=64,
        ge=1,
        le=4096,
        description="pictures of one engine, at most; a quarter of the places is kept from jobs",
    )
    min_engines: int = Field(default=1, ge=0, description="that stay while nobody asks")
    max_engines: int = Field(default=4, ge=1, description="that the requests are worth at most")
    gpus: float | None = Field(default=None, ge=0, description="of one engine; None: a worker's")
    cpus: float | None = Field(
        default=None, ge=0, description="of one engine; None: a worker's, or 0 beside no GPU"
    )
    compile: bool = Field(default=False, description="the denoiser: minutes at the start")
    safety: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
        description="MODULE:FUNCTION that is given each picture, and returns why it may not be "
        "shown, or None",
    )


class Offer(Model):
    """A model under the name that clients know it by, which is its pool of workers, too."""

    weights: str = Field(min_length=1, description="miniature, a folder, or a name on the hub")
    recipe: str = Field(description="what subjects are trained by unless a job says otherwise")
    slots: int = Field(default=8, ge=1, le=1024, description="subjects of one worker at a time")
    gpus: float = Field(default=1, ge=0, description="of one worker")
    cpus: float = Field(default=1, ge=0, description="of one worker")
    min_workers: int = Field(default=0, ge=0, description="that stay while there is nothing to do")
    max_workers: int = Field(default=8, ge=1, description="that a backlog is worth at most")
    device: str = Field(default="auto", description="auto, cpu, cuda")
    dtype: DtypeName = Field(default="auto", description="of the model")
    judge: str | None = Field(
        default=None, description="who scores tokens, as of `dti train --judge`; None: its own"
    )
    painting: Painting = Field(default=Painting(), description="of the endpoint")

    @property
    def engine_gpus(self) -> float:
        return self.gpus if self.painting.gpus is None else self.painting.gpus

    @property
    def engine_cpus(self) -> float:
        """On processors alone, engines that stay would else keep workers out for good."""
        if self.painting.cpus is not None:
            return self.painting.cpus
        return self.cpus if self.engine_gpus else 0


Offers = Mapping[Label, Offer]

_PAINTING = "paint-"
"""Before the names of the pools in which pictures of jobs wait. No offer is called so."""

_LONGEST = 63 - len(_PAINTING)
"""Characters of an offer's name, so that both of its pools have one that can be part of a key."""


def painting_pool(offer: str) -> str:
    """Where pictures of jobs wait; subjects wait in the pool that is called as the offer is."""
    return f"{_PAINTING}{offer}"


def offer_of(pool: str) -> str:
    """The name of the offer that a pool belongs to."""
    return pool.removeprefix(_PAINTING)


MINIATURE: Offers = {
    "miniature": Offer(
        weights="miniature",
        recipe="miniature",
        slots=4,
        gpus=0,
        max_workers=1,
        painting=Painting(max_engines=1),
    )
}
"""What is offered where nothing else is said."""


def find_offer(name: str, offers: Offers) -> Offer:
    """Raises: UnknownModelError."""
    if name not in offers:
        raise UnknownModelError(f"there is no model {name!r:.200}: there are {', '.join(offers)}")
    return offers[name]


_OFFERS: TypeAdapter[dict[Label, Offer]] = TypeAdapter(dict[Label, Offer])


def read_offers(path: Path) -> Offers:
    """The offers in a file of JSON. Raises: SettingsError."""
    try:
        offers = _OFFERS.validate_json(path.read_bytes())
    except OSError as error:
        raise SettingsError(f"cannot read {str(path)!r}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise SettingsError(f"{str(path)!r}: {place}: {first['msg']}") from error
    if not offers:
        raise SettingsError(f"{str(path)!r} offers no model: name at least one")
    for name, offer in offers.items():
        if name.startswith(_PAINTING) or len(name) > _LONGEST:
            raise SettingsError(
                f"{str(path)!r}: {name!r} can be no offer's name: give one of at most {_LONGEST} "
                f"characters that does not begin with {_PAINTING!r}, as pools of pictures do"
            )
        if offer.recipe not in RECIPES:
            raise SettingsError(
                f"{str(path)!r}: {name} has the recipe {offer.recipe!r}; known are "
                f"{', '.join(sorted(RECIPES))}"
            )
    return offers
