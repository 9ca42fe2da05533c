"""Adapters for Llama, Yi, Qwen and Gemma. Each family is declared in its own module."""
