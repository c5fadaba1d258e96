"""Does the method keep its promise on real models? The paper's protocol on anyone's photographs.

`study` is what `dti evaluate` does with other backbones than the miniature, resumably; `protocol`
says how, `prompts` in which prompts, `rows` by which methods, `report` what came out.
"""
