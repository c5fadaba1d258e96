"""Models by OpenAI's own client."""

from typing import Any

import openai
import pytest

from services.contracts.models import MINIATURE


def test_openais_client_lists_and_finds_what_generates(studio: Any) -> None:
    with (
        studio.served() as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key=studio.keys["acme"], max_retries=0) as client,
    ):
        [model] = client.models.list()
        assert (model.id, model.object, model.owned_by) == ("miniature", "model", "dti")
        assert isinstance(model.created, int)
        assert client.models.retrieve(model.id) == model
        assert client.images.generate(prompt="a dog", model=model.id).data
        with pytest.raises(openai.NotFoundError, match="there are miniature") as unknown:
            client.models.retrieve("dall-e-3")
        assert unknown.value.code == "model_not_found"
        other = client.with_options(api_key="dti_1_no")
        with pytest.raises(openai.AuthenticationError):
            other.models.list()


def test_they_are_those_of_backbones_in_their_order(new_site: Any) -> None:

    site = new_site(models={"sdxl": MINIATURE["miniature"], **MINIATURE})
    names = [each["name"] for each in site.get("/v1/backbones").json()["backbones"]]
    assert [each["id"] for each in site.get("/v1/models").json()["data"]] == names
    assert site.get("/v1/models?limit=1").status_code == 422
