"""Djinn from Python: what a program may tell about itself (annotations.py: `djinn.phase`, `djinn.session`), operators by name on a server (core.coordinator),
and the command `djinn` (cli). Pure Python, without dependencies; importing it needs no Djinn to be running."""
from .annotations import phase, session
from .core.errors import DeadHandleError, DjinnError, RemoteOperationError, TargetUnreachableError

__all__ = ["DeadHandleError", "DjinnError", "RemoteOperationError", "TargetUnreachableError", "phase", "session"]
