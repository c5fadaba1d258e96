"""Models by OpenAI's own client."""

from typing import Any

import openai
import pytest

from services.contracts.models import ServedModel


def test_openais_client_lists_and_retrieves_models(image_site: Any) -> None:
    with (
        image_site.served() as url,
        openai.OpenAI(
            base_url=f"{url}/v1", api_key=image_site.keys["acme"], max_retries=0
        ) as client,
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


def test_models_are_listed_with_their_recipes_and_without_where_their_weights_are(
    new_site: Any,
) -> None:
    served_models = {
        "small": ServedModel(weights="/secret/weights", recipe="miniature"),
        "large": ServedModel(
            weights="/secret/other", recipe="sdxl-release", scorer="/secret/scorer"
        ),
    }
    site = new_site(models=served_models)
    answer = site.get("/v1/models")
    assert "secret" not in answer.text
    small, large = answer.json()["data"]
    assert (small["id"], small["default"], small["recipe"]) == ("small", True, "miniature")
    assert (large["default"], large["config"]["resolution"]) == (False, 768)
    assert site.get("/v1/models/large").json() == large
    response = site.submit({"subjects": site.subjects("a"), "model": "large"})
    assert response.json()["pool"] == "large"
    assert site.get("/v1/models?limit=1").status_code == 422
