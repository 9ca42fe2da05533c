"""Tiny random models of every type that adapters cover, and a tokenizer, built in code. Imports no other room."""
