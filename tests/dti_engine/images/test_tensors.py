import pytest
import torch
from PIL import Image

from dti_engine.errors import ConfigurationError
from dti_engine.images.tensors import mask_weights, to_tensor


def test_a_tensor_holds_channels_first_from_minus_one_to_one() -> None:
    image = Image.new("RGB", (3, 2), (0, 255, 51))
    image.putpixel((2, 1), (255, 0, 0))
    pixels = to_tensor([image, image])
    assert pixels.shape == (2, 3, 2, 3)
    assert pixels.dtype == torch.float32
    torch.testing.assert_close(pixels[0, :, 0, 0], torch.tensor([-1.0, 1.0, -0.6]))
    assert pixels[1, :, 1, 2].tolist() == [1, -1, -1]


@pytest.mark.parametrize(
    "images",
    [
        [],
        [Image.new("RGB", (4, 4)), Image.new("RGB", (4, 5))],
        [Image.new("L", (4, 4))],
        [Image.new("RGB", (4, 4)), Image.new("RGBA", (4, 4))],
    ],
)
def test_images_that_do_not_stack_are_rejected(images: list[Image.Image]) -> None:
    with pytest.raises(ConfigurationError, match="must be RGB and all of one size"):
        to_tensor(images)


@pytest.mark.parametrize("side", [64, 512])
def test_a_white_mask_and_none_weigh_exactly_one(side: int) -> None:
    weights = mask_weights([Image.new("L", (side, side), 255), None], 8, 8)
    assert torch.equal(weights, torch.ones(2, 1, 8, 8))


def test_weights_lie_where_the_mask_is_white_and_their_mean_is_one() -> None:
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    weights = mask_weights([mask], 8, 8)
    expected = torch.zeros(1, 1, 8, 8)
    expected[..., :4] = 2
    assert torch.equal(weights, expected)


def test_the_edge_of_a_mask_weighs_by_its_area() -> None:
    mask = Image.new("L", (16, 16))
    mask.paste(255, (0, 0, 12, 16))
    weights = mask_weights([mask], 2, 2)
    torch.testing.assert_close(weights[0, 0], torch.tensor([[4.0, 2.0], [4.0, 2.0]]) / 3)
