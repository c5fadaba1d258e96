"""Token files: our own artifacts, and the files of other programs (`exporters`, `importers`).

    diffusers   {placeholder: (n, d)} as safetensors; for two encoders a pair, NAME and NAME_2
    comfyui     {emb_params} of one encoder, {clip_l, clip_g} of SDXL, as safetensors
    kohya       as comfyui
    invokeai    as comfyui
    a1111       {string_to_param: {"*": (n, d)}, name, ...} as .pt; .safetensors as comfyui
    onetrainer  {emp_params} of one CLIP, {clip_l, clip_g} of SDXL, {gemma} of SANA

`programs` has the sources, the models that each program takes, and the names that it can say.
"""
