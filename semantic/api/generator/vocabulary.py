"""The words in which the overlay speaks: what a call does (its mode) and what a parameter is (its role).

Headers say how a function is called; an overlay file says, in one line a function or family, what the call means. A mode is one of
    post     encoded and posted, answered before it ran            local    answered in the client: library-handle state, versions, texts
    custom   hand-written, and sends commands                      absent   exported, returns the library's NOT_SUPPORTED and says so once
(design.md §4 also has `call` and `poll`, generated round trips: no function needs one yet, so that the generator does not know them.)
Names may carry alternatives, "cublas{S,D}gemm_v2", and each must exist in the header; `rest` takes what no line has named.
"""
import dataclasses
import difflib
import sys


class OverlayError(Exception):
    """A line of the overlay that cannot be meant; the text begins with its file and line."""


def expand(pattern):
    """"a{b,c}d" → abd, acd; an alternative may be empty."""
    opening = pattern.find("{")
    if opening < 0:
        return [pattern]
    closing = pattern.index("}", opening)
    head, tail = pattern[:opening], pattern[closing + 1:]
    return [name for word in pattern[opening + 1:closing].split(",") for name in expand(head + word + tail)]


@dataclasses.dataclass(frozen=True)
class Role:
    kind: str
    argument: str = ""


value = Role("value")      # copied by value; an enum travels as its number
gpu = Role("gpu")          # a device address: 8 bytes, never dereferenced here
library = Role("library")  # a library handle: its state travels by value (stream, math mode)
ignored = Role("ignored")  # a hint to the vendor's implementation, such as the choice of an algorithm


def scalar(size):
    """alpha and beta: host or device by the handle's pointer mode; `size` is C++ for the bytes of one."""
    return Role("scalar", size)


@dataclasses.dataclass
class Row:
    name: str
    mode: str
    why: str
    where: str
    scope: str = ""        # absent only: what happens inside an op scope, "drop" or "abort"
    shape: str = ""        # generated local functions: create, destroy, set, get, answer, text
    of: str = ""           # get: the setter whose value it returns
    values: tuple = ()     # answer: C++ for what it returns, or for what its pointers receive
    roles: dict = dataclasses.field(default_factory=dict)
    session: bool = False  # create: needs a device


class Api:
    """One family of functions: its headers, how its names begin, and its status codes (C++ text)."""

    def __init__(self, name, headers, prefix, status, success, unsupported, invalid, lost, returns=None, pointer=None, same_kind=None, needs=(),
                 optional=True):
        self.name, self.headers, self.prefix, self.status = name, headers.split(), prefix, status
        self.success, self.unsupported, self.invalid, self.lost = success, unsupported, invalid, lost
        self.returns = returns or {}      # return type → C++ for an absent function's value
        self.pointer = pointer            # role of a bare pointer that no line mentions
        self.same_kind = same_kind or {}  # handle types that are another's const or alias
        self.needs = list(needs)          # headers to include before
        self.optional = optional
        self.rows, self.others, self.messages, self.undeclared = {}, None, {}, set()

    def _where(self):
        frame = sys._getframe(2)
        while frame.f_code.co_filename == __file__:
            frame = frame.f_back
        return f"{frame.f_code.co_filename.rsplit('/', 1)[-1]}:{frame.f_lineno}"

    def _add(self, mode, names, why="", **more):
        where = self._where()
        for word in names.split():
            for name in expand(word):
                if name in self.rows:
                    raise OverlayError(f"{where}: {name} is declared twice, first at {self.rows[name].where}")
                self.rows[name] = Row(name, mode, why, where, **more)

    def __getattr__(self, mode):
        if mode.startswith("_"):
            raise AttributeError(mode)
        words = [w for w in dir(Api) if not w.startswith("_")]
        close = difflib.get_close_matches(mode, words, 1)
        raise OverlayError(f"{self._where()}: unknown mode '{mode}'" + (f"; did you mean '{close[0]}'?" if close else ""))

    def post(self, names, **roles):
        self._add("post", names, roles=roles)

    def local(self, names, why="answered in the client"):
        self._add("local", names, why)

    def custom(self, names, why):
        self._add("custom", names, why)

    def absent(self, names, why, scope="abort"):
        self._add("absent", names, why, scope=scope)

    def rest(self, why, scope="abort"):
        """Every function of the header that no other line names."""
        self.others = Row("", "absent", why, self._where(), scope=scope)

    def create(self, names, session=False):
        """Mints a handle or descriptor into the first parameter that points to one."""
        self._add("local", names, "mints an id", shape="create", session=session)

    def destroy(self, names):
        self._add("local", names, "forgets an id", shape="destroy")

    def set(self, names):
        """Keeps the arguments with the object named by the first parameter."""
        self._add("local", names, "kept with the object", shape="set")

    def get(self, name, of):
        """Returns through the last parameter what `of` has kept; before that, zero."""
        self._add("local", name, f"what {of} has kept", shape="get", of=of)

    def answer(self, name, *values):
        """A constant of the headers: returned, or given through the pointers in their order."""
        self._add("local", name, "the headers' own number", shape="answer", values=values)

    def version_property(self, name, major, minor, patch):
        """xGetProperty(which, &value)."""
        self._add("local", name, "the headers' version", shape="version_property", values=(major, minor, patch))

    def text(self, names):
        """The name of a status code, as the header's enum spells it."""
        self._add("local", names, "names of codes", shape="text")

    def internal(self, mode, names, why):
        """Functions that no header of the API declares (the vendor's compiler calls them, or a header of another kind has them): names only."""
        self._add(mode, names, why)
        for word in names.split():
            self.undeclared.update(expand(word))

    def message(self, name, **fields):
        """What a custom function puts on the wire; fields: wire types, or structs of semantic/api/values.hpp."""
        self.messages[name] = (fields, self._where())
