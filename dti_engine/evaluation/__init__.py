"""Does the method keep its promise? Scores on the miniature, beside floor, ceiling and baselines.

`command` is `dti evaluate`; `study` is what it does, resumably; `report` says what came out.
"""
