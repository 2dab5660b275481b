//! Weight files: PyTorch archives, safetensors, conversion.
