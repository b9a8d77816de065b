"""What the model's card says, and how to train one's own."""

import re

import gradio as gr

from fagan_space.controls import picture_shown
from fagan_space.files import keep
from fagan_space.models import Model

TITLE = "About"

_OWN = """
## Train your own

On your own pictures, on a laptop or many GPUs, and publish it with its card:

```bash
accelerate launch training/train.py --config training/recipes/folder-64.yaml \\
    --dataset path/to/pictures --push_to_hub you/yours
```

The code, the recipes and how to build attention GANs of your own: [fagan_hf](https://huggingface.co/models?library=fagan_hf).
"""


def card_text(card: str) -> str:
    """Give the words of a card: without its metadata, our marks, and pictures, which lie beside it and not here."""
    body = re.sub(r"\A---\n.*?\n---\n", "", card, flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->|<img[^>]*>|!\[[^\]]*\]\([^)]*\)|<sub>.*?</sub>", "", body, flags=re.DOTALL)
    return re.sub(r"\n{3,}", "\n\n", body).strip()


def build(model: Model) -> None:
    """Lay the tab out."""
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            gr.Markdown(card_text(model.card) or f"`{model.shown}` has no card.")
        with gr.Column(scale=1, min_width=280):
            if model.samples is not None:
                picture_shown("Its own samples", value=str(keep(model.samples)))
            gr.Markdown(_OWN)
