"""Library on ONNX graphs: branches, parity, front-ends, checks. No torch here."""
