"""The contact sheet: some subjects in some prompts, every method, to look at."""

from collections.abc import Sequence

from PIL import Image, ImageOps

from dti_engine.evaluation.photographs.prompts import spread
from dti_engine.evaluation.photographs.rows import Row, Shot
from dti_engine.evaluation.photographs.store import Store
from dti_engine.evaluation.photographs.subjects import PhotographedSubject
from dti_engine.evaluation.sheet import Block, cell_of, sheet_of

_NUM_SUBJECTS, _NUM_PROMPTS, _CELL_PX = 3, 8, 192


def contact_sheet(
    store: Store, rows: Sequence[Row], subjects: Sequence[PhotographedSubject]
) -> Image.Image:
    """Photos and first pictures of a few subjects that share the prompts of the first one."""
    prompts = subjects[0].prompts
    alike = [each for each in subjects if each.prompts == prompts][:_NUM_SUBJECTS]
    columns = [prompts.index(each) for each in spread(prompts, _NUM_PROMPTS)]

    def block(subject: PhotographedSubject) -> Block:
        side = (_CELL_PX, _CELL_PX)
        photos = [ImageOps.fit(each.image, side) for each in subject.pictures()]
        shots = {
            row: [Shot(row, subject, column, image_seed=0) for column in columns] for row in rows
        }
        pictures = {
            row.title: [
                cell_of(store.picture(shot), cell_px=_CELL_PX, resample=Image.Resampling.LANCZOS)
                for shot in of_row
            ]
            for row, of_row in shots.items()
        }
        return Block(subject.name, photos[: len(columns)], pictures)

    return sheet_of(
        [block(subject) for subject in alike],
        [prompts[column] for column in columns],
        cell_px=_CELL_PX,
    )
