"""Learned tokens in the files of other programs: written (`writing`) and read (`reading`).

    diffusers   {token: (n, d)} as safetensors; of two encoders a pair of files, NAME and NAME_2
    comfyui     one safetensors file: {emb_params} of one encoder, {clip_l, clip_g} of SDXL's two;
                ComfyUI, kohya, OneTrainer, InvokeAI
    a1111       {string_to_param: {"*": (n, d)}, name, ...} as .pt; of SDXL, what `comfyui` is

Source: diffusers loaders/textual_inversion.py, ComfyUI comfy/sd1_clip.py, A1111
modules/textual_inversion, kohya sd-scripts train_textual_inversion.py.
"""
