"""The Space: a page on which a model of fagan_hf is tried.

`page` puts it together out of `tabs`, one module each; `api` offers the same to programs.
"""

from fagan_space import gpu as gpu  # before anything else imports torch
