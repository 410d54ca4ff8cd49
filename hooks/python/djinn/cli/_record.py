"""Reads what DJINN_RECORD wrote (interpose/shadow/record.hpp has the format): one Record per process, with texts, places and contexts resolved. A torn last event is
where the process ended; an event of an unknown kind is skipped."""
import collections
import pathlib
import struct

from . import Problem

MAGIC, VERSION = 0x4443524E4E494A44, 1
PHASES = ("other", "forward", "backward", "optimizer", "llm_prefill", "llm_decode", "vision_encoding", "audio_encoding")
DIRECTIONS = ("to device", "to host", "on device")
WAITS = ("executed", "reply", "credit", "none")
OP_QUERY, MEANING_OP = 0x54, 0x85

Session = collections.namedtuple("Session", "time unix ahead round_trip pid threads credit_tickets credit_bytes idle_flush program host link")
Posted = collections.namedtuple("Posted", "ticket time thread opcode name module phase step bytes")
Copied = collections.namedtuple("Copied", "time bytes thread name module stack direction pinned asynchronous looking")
Sent = collections.namedtuple("Sent", "time first last bytes")
Acknowledged = collections.namedtuple("Acknowledged", "time ticket bytes")
Worked = collections.namedtuple("Worked", "begin end")
Waited = collections.namedtuple("Waited", "begin end ticket thread kind name module opcode stack looking")
Aborted = collections.namedtuple("Aborted", "time thread name why module stack looking")
Step = collections.namedtuple("Step", "time step phase queries keys")
End = collections.namedtuple("End", "time ops aborted server_first round_trips stalls posted frames bytes")
Place = collections.namedtuple("Place", "file line function")


class Record:
    """Lists by kind, each in the order of the file. `stack` fields are tuples of Place, innermost first; `worked` maps a ticket to the server's times, by this
    process's clock; `meant` the ticket of a meaning_op to its op, module and phase."""

    def __init__(self, data, where="record"):
        self.posted, self.copied, self.sent, self.acknowledged, self.waited, self.aborted, self.steps = [], [], [], [], [], [], []
        self.meant = {}
        self.worked, self.threads, self.session, self.end, self.torn = {}, {}, None, None, False
        self._texts, self._contexts, self._places, self._stacks = {0: ""}, {0: ("", "")}, {}, {0: ()}
        if len(data) < 16 or struct.unpack_from("<2Q", data) != (MAGIC, VERSION):
            raise Problem(f"{where} is not a recording of this version of Djinn")
        takers = {1: self._session, 2: self._text, 3: self._context, 4: self._place, 5: self._stack, 6: self._posted, 7: self._copied, 8: self._sent,
                  9: self._acknowledged, 10: self._worked, 11: self._waited, 12: self._aborted, 13: self._step, 14: self._thread, 15: self._end}
        at = 16
        while at + 8 <= len(data):
            kind, size = struct.unpack_from("<2I", data, at)
            at += 8
            if at + size > len(data):
                self.torn = True
                break
            if kind in takers:
                takers[kind](data[at:at + size])
            at += size
        if not self.session:
            raise Problem(f"{where} has no session: the process ended before it used a device")

    @staticmethod
    def _strings(data, at, count):
        out = []
        for _ in range(count):
            n, = struct.unpack_from("<Q", data, at)
            out.append(data[at + 8:at + 8 + n].decode("utf-8", "replace"))
            at += 8 + (n + 7) // 8 * 8
        return out

    def _session(self, d):
        self.session = Session(*struct.unpack_from("<2Qq6Q", d), *self._strings(d, 72, 3))

    def _text(self, d):
        self._texts[struct.unpack_from("<Q", d)[0]] = self._strings(d, 8, 1)[0]

    def _context(self, d):
        number, phase, module, _ = struct.unpack("<4Q", d)
        self._contexts[number] = (PHASES[phase] if phase < len(PHASES) else "", self._texts.get(module, ""))

    def _place(self, d):
        number, file, function, line = struct.unpack("<4Q", d)
        self._places[number] = Place(self._texts.get(file, "?"), line, self._texts.get(function, "?"))

    def _stack(self, d):
        number, *places = struct.unpack(f"<{len(d) // 8}Q", d)
        self._stacks[number] = tuple(self._places[p] for p in places if p in self._places)

    def _posted(self, d):
        ticket, time, thread, opcode, name, module, context, step, size = struct.unpack("<2Q6IQ", d)
        phase, path = self._contexts.get(context, ("", ""))
        if opcode == MEANING_OP:  # says which op the calls that follow are part of
            self.meant[ticket], name = (self._texts[name], path, phase), 0
        self.posted.append(Posted(ticket, time, thread, opcode, self._texts[name], path or self._texts[module], phase, step, size))

    def _copied(self, d):
        time, size, thread, name, module, stack, direction, pinned, asynchronous, _, looking = struct.unpack("<2Q8IQ", d)
        self.copied.append(Copied(time, size, thread, self._texts[name], self._texts[module], self._stacks[stack], DIRECTIONS[direction], bool(pinned), bool(asynchronous),
                                  looking))

    def _sent(self, d):
        self.sent.append(Sent(*struct.unpack("<4Q", d)))

    def _acknowledged(self, d):
        self.acknowledged.append(Acknowledged(*struct.unpack("<3Q", d)))

    def _worked(self, d):
        ticket, begin, end = struct.unpack("<3Q", d)
        self.worked[ticket] = Worked(begin - self.session.ahead, end - self.session.ahead)

    def _waited(self, d):
        begin, end, ticket, thread, kind, name, module, opcode, stack, looking = struct.unpack("<3Q6IQ", d)
        self.waited.append(Waited(begin, end, ticket, thread, WAITS[kind], self._texts[name], self._texts[module], opcode, self._stacks[stack], looking))

    def _aborted(self, d):
        time, thread, name, why, module, stack, _, looking = struct.unpack("<Q6IQ", d)
        self.aborted.append(Aborted(time, thread, self._texts[name], self._texts[why], self._texts[module], self._stacks[stack], looking))

    def _step(self, d):
        time, step, phase, queries, keys = struct.unpack("<5Q", d)
        self.steps.append(Step(time, step, PHASES[phase] if phase < len(PHASES) else "", queries, keys))

    def _thread(self, d):
        self.threads[struct.unpack_from("<Q", d)[0]] = self._strings(d, 8, 1)[0]

    def _end(self, d):
        self.end = End(*struct.unpack("<9Q", d))


def read(path):
    try:
        return Record(pathlib.Path(path).read_bytes(), str(path))
    except OSError as e:
        raise Problem(f"{path} cannot be read: {e.strerror}") from None
    except (struct.error, LookupError, TypeError, AttributeError):  # an event of another length, a number that nothing has, an event before the session
        raise Problem(f"{path} is damaged") from None


# Files that are nobody's own line: PyTorch's inside, and what Python itself lays around a call.
_INNER = ("-packages/torch/", "<frozen", "<djinn>", "/contextlib.py")


def own(stack):
    """The innermost frame that is not PyTorch's; of a stack that has none, the innermost; None without frames."""
    for place in stack:
        if not any(part in place.file for part in _INNER):
            return place
    return stack[0] if stack else None
