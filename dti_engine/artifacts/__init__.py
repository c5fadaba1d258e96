"""Token files: our own artifacts, and the files of other programs (`exporters`, `importers`).

    diffusers   {token: (n, d)} as safetensors; for two encoders a pair of files, NAME and NAME_2
    comfyui     one safetensors file: {emb_params} for one encoder, {clip_l, clip_g} for SDXL's two;
                ComfyUI, kohya, OneTrainer, InvokeAI
    a1111       {string_to_param: {"*": (n, d)}, name, ...} as .pt; for SDXL as `comfyui`

Source: diffusers loaders/textual_inversion.py, ComfyUI comfy/sd1_clip.py, A1111
modules/textual_inversion, kohya sd-scripts train_textual_inversion.py.
"""
