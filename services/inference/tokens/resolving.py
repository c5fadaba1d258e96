"""What the placeholders of a picture stand for: tokens, and blends of them."""

from dataclasses import dataclass

from pydantic import JsonValue

from dti_engine.errors import ConfigurationError
from dti_engine.tokens import LearnedToken
from services import logs
from services.inference.tokens.blending import Blender
from services.inference.tokens.cache import TokenCache
from services.inference.tokens.known import KnownToken
from services.ledger.ledger import Gather, in_threads
from services.pictures import Picture


@dataclass(frozen=True, slots=True)
class Resolved:
    """By placeholder."""

    tokens: dict[str, LearnedToken]
    origins: dict[str, JsonValue]
    """What each was made of, for the settings of the picture."""


class Resolver:
    """Resolves pictures of one model. Safe to use from many threads."""

    def __init__(self, tokens: TokenCache, blender: Blender, gather: Gather = in_threads) -> None:
        self._tokens, self._blender, self._gather = tokens, blender, gather

    def resolve(self, tenant: str, picture: Picture) -> Resolved:
        """Each name is looked up once, so that it stands for one token in all of the picture; all
        of them side by side.

        Raises: as `TokenCache.get` and `Blender.blend`, in the order in which they are given;
            ConfigurationError if a placeholder stands for two things.
        """
        if twice := picture.tokens.keys() & picture.blends.keys():
            raise ConfigurationError(
                f"{', '.join(sorted(twice))} is given as a token and as a blend: give it as one"
            )
        parts = [part.token for blend in picture.blends.values() for part in blend]
        names = list(dict.fromkeys([*picture.tokens.values(), *parts]))
        ids = logs.ids()

        def get(name: str) -> KnownToken:
            with logs.bound(**ids):
                return self._tokens.get(tenant, name)

        known = dict(zip(names, self._gather(get, names), strict=True))
        resolved = Resolved({}, {})
        for placeholder, name in picture.tokens.items():
            resolved.tokens[placeholder] = known[name].learned
            resolved.origins[placeholder] = {**known[name].origin}
        for placeholder, blend in picture.blends.items():
            ends, weights = [known[each.token] for each in blend], [each.weight for each in blend]
            blended = self._blender.blend_known(tenant, ends, weights)
            resolved.tokens[placeholder] = blended.learned
            resolved.origins[placeholder] = blended.origin
        return resolved
