"""Export generators to files that run without this package."""

from typing import TYPE_CHECKING

from fagan_hf.utils.on_demand import on_demand

if TYPE_CHECKING:
    from fagan_hf.export.generator_file import METADATA_FILE, TOLERANCE, Export, export_onnx, export_torch
    from fagan_hf.export.tracing import OPSET
    from fagan_hf.export.web import WebExport, export_web, web_details

__all__ = [
    "METADATA_FILE",
    "OPSET",
    "TOLERANCE",
    "Export",
    "WebExport",
    "export_onnx",
    "export_torch",
    "export_web",
    "web_details",
]

__getattr__ = on_demand(
    __name__,
    {
        "generator_file": ["METADATA_FILE", "TOLERANCE", "Export", "export_onnx", "export_torch"],
        "tracing": ["OPSET"],
        "web": ["WebExport", "export_web", "web_details"],
    },
)
