"""Evaluation: subject and prompt scores of each method, with intervals and baselines.

One `Study` over a `Domain`: the miniature's own world, whose scorer ships with it, or photographs,
scored by DINOv2 and SigLIP as in the paper.
"""
