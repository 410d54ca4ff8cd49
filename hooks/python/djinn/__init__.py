"""What a program may tell Djinn about itself, and what people ask Djinn. Pure Python, without dependencies; nothing here needs Djinn to be running."""
from .core.errors import DeadHandleError, DjinnError, RemoteOperationError, TargetUnreachableError

__all__ = ["DeadHandleError", "DjinnError", "RemoteOperationError", "TargetUnreachableError"]
