"""One interface to what runs an engine file: onnxruntime or TensorRT, imported when first used."""
