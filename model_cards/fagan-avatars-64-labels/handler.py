from fagan_hf.serving import EndpointHandler  # noqa: F401
