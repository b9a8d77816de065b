"""The model card, and how to train your own model."""

import re

import gradio as gr

from fagan_space.controls import Built, picture_shown
from fagan_space.files import keep
from fagan_space.models import Model

TITLE = "About"

_OWN = """
## Train your own

Train on your own images, on a laptop or on GPUs, and publish the model with a card:

```bash
pip install "fagan-hf[train,metrics]"
fagan-hf train path/to/images --minutes 60 --push-to-hub you/yours
```

Code, recipes, and how to design your own attention GAN: [fagan_hf](https://huggingface.co/models?library=fagan_hf).
"""


def card_text(card: str) -> str:
    """Return the text of a card without metadata, comments and images, whose files are not available here."""
    body = re.sub(r"\A---\n.*?\n---\n", "", card, flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->|<img[^>]*>|!\[[^\]]*\]\([^)]*\)|<sub>.*?</sub>", "", body, flags=re.DOTALL)
    return re.sub(r"\n{3,}", "\n\n", body).strip()


def build(model: Model) -> Built:
    """Build the tab."""
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            gr.Markdown(card_text(model.card) or f"`{model.shown}` has no model card.")
        with gr.Column(scale=1, min_width=280):
            if model.samples is not None:
                picture_shown("Samples", value=str(keep(model.samples)))
            gr.Markdown(_OWN)
    return Built()
