"""The page needs nothing beside it, and shows all results."""

import re
from pathlib import Path

from dti_engine.demo.images import NUM_STRIP_IMAGES, draw_references
from dti_engine.demo.results import DemoImage, LikenessScale, Strip, StripImage, render
from dti_engine.miniature.world.subjects import demo_prompts, held_out_subjects
from services.demo import run
from services.demo.figures import ServiceFigure
from services.demo.run import (
    ServedSubject,
    ServiceDemoResults,
    pairs,
    prompt_requests,
    strip_requests,
)

TEMPLATES = Path(run.__file__).parent


def results(output: Path) -> ServiceDemoResults:
    """Results whose images are the subjects' own references."""
    held_out = held_out_subjects("demo")
    drawn = {subject.name: draw_references(subject, output) for subject in held_out}
    subjects = [
        ServedSubject(
            name=subject.name,
            placeholder=subject.placeholder,
            initializer=subject.class_word,
            token=f"tok_{subject.name}",
            report={},
            references=drawn[subject.name],
            images=[
                DemoImage(drawn[subject.name][0], prompt.template, 0, prompt.asked, 0.5, 0.75)
                for prompt in demo_prompts()
            ],
        )
        for subject in held_out
    ]
    strips = [
        Strip(
            *(first.name, second.name, "a photo of a <blend>", 0),
            [StripImage(drawn[first.name][0], i / 6, 0.6, 0.3) for i in range(NUM_STRIP_IMAGES)],
        )
        for first, second in pairs(held_out)
    ]
    return ServiceDemoResults(
        subjects=subjects,
        strips=strips,
        scale=LikenessScale(same_subject=0.8, other_subject=0.4),
        figures=[ServiceFigure("152", "subjects an hour & more")],
        settings={"training steps": 200},
        seconds={"learn 4 subjects": 95.0},
        environment={"python": "3.11"},
    )


def test_the_page_holds_all_its_images_and_follows_the_readers_colours(tmp_path: Path) -> None:
    found = results(tmp_path)
    page = render(found, tmp_path, TEMPLATES)
    assert page.count("data:image/png;base64,") == 4 * (5 + 6) + 2 * 7
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "prefers-color-scheme: dark" in page
    for text in ("&lt;dog-25&gt;", "tok_dog-25", "1 min 35 s", "subjects an hour &amp; more"):
        assert text in page
    assert found.document()["mean"] == {"subject_score": 0.5, "prompt_score": 0.75}
    assert found.document()["counts"] == {"subjects": 4, "images": 38}


def test_each_subject_is_generated_in_every_prompt_and_blended_once(tmp_path: Path) -> None:
    held_out = held_out_subjects("demo")
    by_subject = [prompt_requests(subject, tmp_path, seed=3, steps=5) for subject in held_out]
    for subject, expected in zip(held_out, by_subject, strict=True):
        assert len(expected) == len(demo_prompts())
        assert [next(iter(each.paths)) for each in expected] == list(range(3, 9))
        assert all(subject.placeholder in str(each.body["prompt"]) for each in expected)
    (first, second), (third, fourth) = pairs(held_out)
    assert len({first.name, second.name, third.name, fourth.name}) == 4
    way = strip_requests(first, second, tmp_path, seed=3, steps=5)
    assert [each.body["blends"]["<blend>"]["t"] for each in way] == [i / 6 for i in range(7)]
    paths = [
        path for requests in (*by_subject, way) for each in requests for path in each.paths.values()
    ]
    assert len(set(paths)) == 4 * 6 + 7
