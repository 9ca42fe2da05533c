"""Search over candidates: what many directions do to the same prompts, scored side by side. It knows what candidates
can share (a template's beginning, the layers below an edit) and what need not be computed (what a bound has removed
already). It may import every other room of the engine."""
