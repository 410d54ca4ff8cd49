"""What a remote operator may raise. Each error knows the operator, the target and the reason, and is the builtin that a caller would expect."""


class DjinnError(Exception):
    """`op` may be empty, where no operator was under way."""

    def __init__(self, op, target, reason):
        super().__init__(f"{op} at {target}: {reason}" if op else f"{target}: {reason}")
        self.op, self.target, self.reason = op, target, reason

    def __reduce__(self):
        return type(self), (self.op, self.target, self.reason)


class RemoteOperationError(DjinnError, RuntimeError):
    """The server refused the operator, or it failed there: an unknown name, shapes or types that do not fit. The session goes on."""


class TargetUnreachableError(DjinnError, ConnectionError):
    """There is no session with the target: nobody listens, it refused, or it was lost while the call waited. The next call tries again."""


class DeadHandleError(DjinnError, RuntimeError):
    """A handle whose session is over (stop(), a lost connection), or that belongs to another target."""
