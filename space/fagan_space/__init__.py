"""The Space: a web page for trying out a fagan_hf model.

`page` assembles the tabs, one module each in `tabs`; `api` exposes the same functions to programs.
"""

from fagan_space import gpu as gpu  # before anything else imports torch
