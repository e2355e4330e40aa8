"""Inner parts of target openvino."""
