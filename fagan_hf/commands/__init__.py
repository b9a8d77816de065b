"""The commands of `fagan-hf`, one file each: `describe` adds a command's flags, `run` does its work."""
