"""Makes `tests` a package; without this file, torch-fidelity's `tests` in site-packages would be imported instead."""
