from fagan_hf import FAGANPipeline  # noqa: F401
