"""What a program may tell Djinn about itself:

    with djinn.session(name="nightly finetune"), djinn.phase("rollout"):
        ...

Both only name things, for those who look (`djinn ps`, `top`, `graph`, `trace`); nothing that is computed changes. Without Djinn in the process they do
nothing and cost nothing."""
import contextlib
import ctypes
import functools
import warnings

_BYTES_MAX = 64  # of a label or a name, semantic/wire/limits.hpp


@functools.lru_cache(None)
def _preloaded():
    """libdjinn.so's functions when it is preloaded into this process; None otherwise."""
    process = ctypes.CDLL(None)
    try:
        functions = process.djinn_phase_begin, process.djinn_phase_end, process.djinn_session_name
    except AttributeError:
        return None
    functions[0].argtypes = functions[2].argtypes = [ctypes.c_char_p]
    functions[1].restype = None
    return functions


def _text(what, value):
    """The bytes of a label or name; None, with a warning that names it, when it is none."""
    if isinstance(value, str) and 0 < len(value.encode()) <= _BYTES_MAX and value.isprintable():
        return value.encode()
    shown = repr(value)
    warnings.warn(f"djinn.{what}: {shown if len(shown) <= 80 else shown[:77] + '...'} is ignored: a printable text of 1 to {_BYTES_MAX} bytes is wanted", stacklevel=3)
    return None


class phase(contextlib.ContextDecorator):
    """What this thread does from here on, as a label of one's own ("rollout"), or as a phase that Djinn knows ("llm_decode", semantic/graph/vocabulary.hpp),
    which then stands instead of what it would have found out."""

    def __init__(self, label):
        self._label = _text("phase", label)

    def __enter__(self):
        if self._label and _preloaded():
            _preloaded()[0](self._label)
        return self

    def __exit__(self, *_):
        if self._label and _preloaded():
            _preloaded()[1]()


class session(contextlib.ContextDecorator):
    """What this process's session is called, wherever it is shown."""

    def __init__(self, name):
        self._name = _text("session", name)

    def __enter__(self):
        if self._name and _preloaded():
            _preloaded()[2](self._name)
        return self

    def __exit__(self, *_):
        if self._name and _preloaded():
            _preloaded()[2](b"")
