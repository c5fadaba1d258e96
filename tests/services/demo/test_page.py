"""The page needs nothing beside it, and shows all that was found."""

import re
from pathlib import Path

from dti_engine.demo.results import Generation, Scale, Strip, StripImage
from dti_engine.miniature.world.subjects import demo_prompts, held_out_subjects
from services.demo.images import NUM_STEPS, files, pairs, prompts, strip
from services.demo.page import render
from services.demo.results import Figure, Learned, Results
from services.demo.run import draw


def results(output: Path) -> Results:
    """Of images that are there: the subjects' own, in place of generated ones."""
    looks = held_out_subjects("demo")
    drawn = {look.name: draw(look, output) for look in looks}
    subjects = [
        Learned(
            name=look.name,
            placeholder=look.placeholder,
            initializer=look.class_word,
            token=f"tok_{look.name}",
            report={},
            references=drawn[look.name],
            generated_images=[
                Generation(drawn[look.name][0], prompt.template, 0, prompt.asked, 0.5, 0.75)
                for prompt in demo_prompts()
            ],
        )
        for look in looks
    ]
    strips = [
        Strip(
            *(first.name, second.name, "a photo of a <blend>", 0),
            [StripImage(drawn[first.name][0], i / 6, 0.6, 0.3) for i in range(NUM_STEPS)],
        )
        for first, second in pairs(looks)
    ]
    return Results(
        subjects=subjects,
        strips=strips,
        scale=Scale(same_subject=0.8, other_subject=0.4),
        figures=[Figure("152", "subjects an hour & more")],
        settings={"training steps": 200},
        seconds={"learn 4 subjects": 95.0},
        environment={"python": "3.11"},
    )


def test_the_page_holds_all_its_images_and_follows_the_readers_colours(tmp_path: Path) -> None:
    found = results(tmp_path)
    page = render(found, tmp_path)
    assert page.count("data:image/png;base64,") == 4 * (5 + 6) + 2 * 7
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "prefers-color-scheme: dark" in page
    for said in ("&lt;dog-25&gt;", "tok_dog-25", "1 min 35 s", "subjects an hour &amp; more"):
        assert said in page
    assert found.document()["mean"] == {"subject_score": 0.5, "prompt_score": 0.75}
    assert found.document()["counts"] == {"subjects": 4, "images": 38}


def test_each_subject_is_generated_in_every_prompt_and_blended_once(tmp_path: Path) -> None:
    looks = held_out_subjects("demo")
    asked = [prompts(look, tmp_path, seed=3, steps=5) for look in looks]
    for look, wanted in zip(looks, asked, strict=True):
        assert len(wanted) == len(demo_prompts())
        assert [next(iter(each.paths)) for each in wanted] == list(range(3, 9))
        assert all(look.placeholder in str(each.order["prompt"]) for each in wanted)
    (first, second), (third, fourth) = pairs(looks)
    assert len({first.name, second.name, third.name, fourth.name}) == 4
    way = strip(first, second, tmp_path, seed=3, steps=5)
    assert [each.order["blends"]["<blend>"]["t"] for each in way] == [i / 6 for i in range(7)]
    everything = [
        file
        for wanted in (*asked, way)
        for each in wanted
        for file in files(each, tmp_path).values()
    ]
    assert len(set(everything)) == 4 * 6 + 7
