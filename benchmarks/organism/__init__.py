"""The figures of the model organism: what it declines, as it is and along its direction, by the study's own matcher."""
