"""How much memory a model takes on each device, before its weights are loaded: from its modules on the meta device.

``passes`` runs a pass that computes nothing and counts what it holds, ``model`` adds up weights by part, ``devices``
says how much room there is here, and ``fitting`` lays one on the other and suggests what would fit.
"""
