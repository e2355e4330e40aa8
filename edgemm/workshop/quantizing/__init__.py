"""How INT8 is made: by NNCF, ONNX Runtime, for TensorRT, or trained in torch (PT2E)."""
