"""The only rooms that touch modules and tensors of a live model. They import `steerkit.api`, never the catalog.

Imports go down: measuring → reading → runtime → hooking → lowering → sequence | sites; `prompts` rests on `sequence`,
`sites` on `loading` (for its cache), `loading` on `tiny`.
"""
