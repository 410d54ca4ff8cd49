"""What a program may tell Djinn about itself:

    with djinn.session(name="nightly finetune"), djinn.phase("rollout"):
        ...

Both only name things, for those who look (`djinn ps`, `top`, `graph`, `trace`); nothing that is computed changes. Without Djinn in the process they do
nothing and cost nothing. With DJINN_MEANING=off the server is still told the session's name, which is how its user wants to be known; labels it is not.

A label belongs to the thread that begins it, until its end: no await and no yield inside of it, where the thread would go on with other work."""
import contextlib
import ctypes
import functools
import inspect
import threading
import warnings

_BYTES_MAX = 64  # of a label or a name, semantic/wire/limits.hpp
_SHOWN_MAX = 77  # of what is none, in the warning


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


def _shown(value):
    """Of anything: a tensor's own repr would run ops, another's might raise."""
    if isinstance(value, (str, bytes)):
        return repr(value[:_SHOWN_MAX]) + "..." * (len(value) > _SHOWN_MAX)
    if value is None or type(value) is int and value.bit_length() <= 64:
        return repr(value)
    return f"a {type(value).__name__}"


class _Around(contextlib.ContextDecorator):
    """What the two have in common: a text of `_what`, None with a warning when it is none, around a block or a function."""

    def __init__(self, value):
        self._text = None
        if isinstance(value, str) and 0 < len(value) <= _BYTES_MAX and value.isprintable() and len(value.encode()) <= _BYTES_MAX:
            self._text = value.encode()
        else:
            self._warn(f"{_shown(value)} is ignored: a printable text of 1 to {_BYTES_MAX} bytes is wanted", frames=4)

    def _warn(self, text, frames=3):
        warnings.warn(f"djinn.{self._what}: {text}", stacklevel=frames)

    def __call__(self, function):
        if self._text and any(is_one(function) for is_one in (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)):
            self._warn(f"{_shown(self._text.decode())} is ignored around {function.__name__}: a call of it only makes a coroutine or generator, which runs later")
            return function
        return super().__call__(function)


class _UnderWay(threading.local):
    def __init__(self):
        self.phases = []  # the innermost last


class phase(_Around):
    """What this thread does from here on, as a label of one's own ("rollout"), or as a phase that Djinn knows ("llm_decode", semantic/graph/vocabulary.hpp),
    which then stands instead of what it would have found out."""
    _what = "phase"
    _under_way = _UnderWay()

    def __init__(self, label):
        super().__init__(label)

    def __enter__(self):
        if self._text and _preloaded():
            self._under_way.phases.append(self)
            _preloaded()[0](self._text)
        return self

    def __exit__(self, *_):
        if not self._text or not _preloaded():
            return
        begin, end, _ = _preloaded()
        phases = self._under_way.phases
        if phases and phases[-1] is self:
            phases.pop()
            return end()
        self._warn(f"{_shown(self._text.decode())} does not end where it began, in the same thread and inside of the same labels: no await or yield inside of it")
        if self in phases:
            at = len(phases) - 1 - phases[::-1].index(self)
            for _ in phases[at:]:
                end()
            del phases[at]
            for other in phases[at:]:
                begin(other._text)


class session(_Around):
    """What this process's session is called, wherever it is shown; inside of another, that one's name comes back."""
    _what = "session"
    _under_way = []  # of all threads, the innermost last

    def __init__(self, name):
        super().__init__(name)

    def __enter__(self):
        if self._text and _preloaded():
            self._under_way.append(self)
            _preloaded()[2](self._text)
        return self

    def __exit__(self, *_):
        sessions = self._under_way
        if self._text and _preloaded() and self in sessions:
            del sessions[len(sessions) - 1 - sessions[::-1].index(self)]
            _preloaded()[2](sessions[-1]._text if sessions else b"")
