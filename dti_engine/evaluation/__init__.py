"""Does the method keep its promise? Scores beside floor, ceiling and baselines.

`command` is `dti evaluate`. On the miniature, `study` is what it does, resumably, and `report` says
what came out. On other models `photographs` has all of that, by the paper's protocol; both use
`records`, `statistics`, `sheet` and `tables`.
"""
