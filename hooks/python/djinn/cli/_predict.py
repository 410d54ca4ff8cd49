"""How long a recorded program would take over another network.

The model: a client, a wire of a round-trip time and a bandwidth, one executor that works in order, and the way back. The client is the recorded one: between
two things that it did (posts and waits, whatever thread they came from, in the order of time) it thinks as long as it thought then. What it posts gathers in
a batch that leaves by the log's own rules (interpose/batch/log.cpp: size, a server with nothing to do, a wait), because when it leaves depends on when
acknowledgements arrive, and that is what another network changes. A frame takes half a round trip and its bytes' time; the server works on it when it has
worked on those before it, as long as it worked then, by its own clock; the acknowledgement takes the other half. A wait ends when the acknowledgement of its
ticket is here. Posting stops while the credit window is full. What the recorded network cost besides its round trip (sockets, threads that wake up) is
measured in the recording, on the ways there and back, and added to every network.

What it leaves out: threads that really run beside each other (they are one line of time here), a server that other sessions use, caches and clock
frequencies that differ between a busy and a waiting machine, and decisions of the program that depend on time.
"""
import collections
import re
import statistics

# Mirror: interpose/batch/log.cpp.
FLUSH_COMMANDS, FLUSH_BYTES, FLUSH_BULK_BYTES, FLUSH_AHEAD = 128, 32 << 10, 1 << 20, 16
INLINE_BYTES_MAX = 4096  # semantic/wire/limits.hpp: what is longer than that in its command is bulk
# semantic/wire/command.hpp: what is only said; and module_load, module_unload, kernel_get, whose times the server does not tell.
MEANING = 0x80, 0x85
UNTIMED = 0x40, 0x41, 0x42

Network = collections.namedtuple("Network", "rtt bandwidth", defaults=(0.0,))  # seconds, bytes per second (0: not limited)


def network_of(link):
    """What DJINN_LINK says, as far as it is a network without faults."""
    def number(key, scales):
        found = re.search(rf"{key}=([0-9.]+)({'|'.join(scales)})", link or "")
        return float(found[1]) * scales[found[2]] if found else 0.0
    return Network(number("rtt", dict(us=1e-6, ms=1e-3, s=1)), number("bandwidth", dict(Kbit=125.0, Mbit=125e3, Gbit=125e6)))


class _Wire:
    """One direction: each message leaves when those before it have."""

    def __init__(self, network, extra):
        self.network, self.extra, self.free = network, extra, 0.0

    def carry(self, now, size):
        self.free = max(now, self.free) + (size / self.network.bandwidth if self.network.bandwidth else 0)
        return self.free + self.network.rtt / 2 + self.extra


def _usual(values, otherwise):
    """The mean, because times add up: a busy machine that now and then wakes a thread late does so over any network."""
    return statistics.fmean(values) if values else otherwise


class Program:
    """A recording, ready to be played over any network."""

    def __init__(self, record):
        self.record, s = record, record.session
        waits = [w for w in record.waited if w.kind != "credit"]  # stalls come of the model itself
        events = [(p.time, 0, p) for p in record.posted] + [(w.begin, 1, w) for w in waits]
        self.events = sorted(events, key=lambda e: (e[0], e[1]))
        # no thinking: stalls, and what the recording itself took (mostly to ask Python for the line)
        idle = [(w.begin, w.end + w.looking) for w in record.waited if w.kind == "credit"] + [(w.end, w.end + w.looking) for w in waits]
        self.idle = sorted(idle + [(e.time, e.time + e.looking) for e in record.copied + record.aborted])
        self.recorded = network_of(s.link)
        self._measure_ways()
        self._measure_service()

    # What the recorded network cost besides its round trip.
    def _measure_ways(self):
        r, there, back, next_frame = self.record, [], [], []
        acknowledged = {}
        for a in r.acknowledged:
            acknowledged.setdefault(a.ticket, a.time)
        untimed = {p.ticket for p in r.posted if p.opcode in UNTIMED}
        previous_end, quiet_before, kept_apart = 0, False, max(r.session.round_trip, self.recorded.rtt * 1e9)
        for f in r.sent:
            tickets = range(f.first, f.last + 1)
            works = [r.worked[t] for t in tickets if t in r.worked]
            # modules take their time unmeasured, and bulk is long under way: neither says what a message costs, of this frame or of the next
            quiet = f.bytes <= 2 * FLUSH_BYTES and untimed.isdisjoint(tickets)
            if works and quiet and quiet_before:
                on_the_wire = f.bytes / self.recorded.bandwidth * 1e9 if self.recorded.bandwidth else 0.0
                if f.time > previous_end:
                    there.append(works[0].begin - f.time - on_the_wire)
                elif previous_end - f.time > kept_apart:
                    next_frame.append(works[0].begin - previous_end)
                if f.last in r.worked and f.last in acknowledged:
                    back.append(acknowledged[f.last] - works[-1].end)
            previous_end, quiet_before = works[-1].end if works else previous_end, quiet
        self.next_frame = _usual(next_frame, 0.0) / 1e9
        half = self.recorded.rtt / 2 * 1e9
        base = max(0.0, self.record.session.round_trip - 2 * half) / 2
        self.there = max(0.0, _usual(there, base + half) - half) / 1e9
        self.back = max(0.0, _usual(back, base + half) - half) / 1e9
        answers = ((w, acknowledged.get(w.ticket, 0)) for w in r.waited)
        wakes = [w.end - at for w, at in answers if w.begin < at < w.end]
        self.wake = _usual(wakes, 0.0) / 1e9

    # Seconds of the executor for each ticket: its work, and what lies between it and the work before it in the same frame (decoding, other commands).
    def _measure_service(self):
        r, self.service = self.record, {}
        for f in r.sent:
            end = None
            for t in range(f.first, f.last + 1):
                if t not in r.worked:
                    continue
                w = r.worked[t]
                self.service[t] = (w.end - (w.begin if end is None else end)) / 1e9
                end = w.end

    def play(self, network, marks=()):
        """Played over a network. `marks` are times of the recording; the answer has when they come."""
        return _Play(self, network).run(sorted(marks))


class Played:
    """Seconds: the whole, where the marks came, and for each wait of the recording how long the program stood in it."""

    def __init__(self):
        self.seconds, self.marks, self.waited, self.stalled = 0.0, [], [], 0.0


class _Play:
    def __init__(self, program, network):
        self.p, self.network = program, network
        self.out, self.home = _Wire(network, program.there), _Wire(network, program.back)
        self.now, self.executor = 0.0, 0.0
        self.batch, self.batch_bytes, self.batch_bulk = [], 0, 0
        self.under_way, self.arrived = collections.deque(), {}  # (last ticket, acknowledged at, bytes); ticket → when its acknowledgement is here
        self.under_way_bytes, self.last_ticket, self.acknowledged = 0, 0, 0
        self.frame_of, self.result = {}, Played()

    def send(self, at):
        if not self.batch:
            return
        begin = max(self.out.carry(at, self.batch_bytes), self.executor + self.p.next_frame)
        self.executor = begin + sum(self.p.service.get(t, 0.0) for t in self.batch)
        home = self.home.carry(self.executor, 0)
        self.under_way.append((self.batch[-1], home, self.batch_bytes))
        for t in self.batch:
            self.arrived[t] = home
        self.under_way_bytes += self.batch_bytes
        self.batch, self.batch_bytes, self.batch_bulk = [], 0, 0

    def hungry(self):
        return self.p.record.session.idle_flush and (not self.under_way or (len(self.under_way) == 1 and len(self.batch) >= FLUSH_AHEAD))

    # Acknowledgements that arrive up to a time; each may let the batch go.
    def settle(self, until):
        while self.under_way and self.under_way[0][1] <= until:
            last, home, size = self.under_way.popleft()
            self.under_way_bytes -= size
            self.acknowledged = last
            if self.batch and self.hungry():
                self.send(home)

    def post(self, posted):
        s = self.p.record.session
        while self.under_way and (self.last_ticket - self.acknowledged >= s.credit_tickets or self.under_way_bytes + posted.bytes > s.credit_bytes):
            self.send(self.now)
            stalled_until = max(self.now, self.under_way[0][1])
            self.result.stalled += stalled_until - self.now
            self.now = stalled_until
            self.settle(self.now)
        # tickets between are commands that the recording does not have
        self.batch.append(posted.ticket)
        self.last_ticket = posted.ticket
        self.batch_bytes += posted.bytes
        self.batch_bulk += posted.bytes if posted.bytes > 2 * INLINE_BYTES_MAX else 0
        work = not MEANING[0] <= posted.opcode <= MEANING[1]  # what is only said goes along with what comes next
        large = self.batch_bytes - self.batch_bulk >= FLUSH_BYTES or self.batch_bulk >= FLUSH_BULK_BYTES
        if len(self.batch) >= FLUSH_COMMANDS or large or (work and self.hungry()):
            self.send(self.now)

    def wait(self, waited):
        before = self.now
        self.settle(self.now)
        if waited.ticket > self.acknowledged:
            self.send(self.now)
            until = self.arrived.get(waited.ticket, 0.0)
            if until > self.now:
                self.settle(until)
                self.now = until + self.p.wake
        self.result.waited.append((waited, self.now - before))

    def run(self, marks):
        marks, recorded, idle = list(marks), None, collections.deque(self.p.idle)
        for time, _, event in self.p.events:
            if recorded is None:
                recorded = time
            gap = max(0, time - recorded)
            while idle and idle[0][0] < time:
                begin, end = idle.popleft()
                gap = max(0, gap - max(0, min(end, time) - max(begin, recorded)))
            while marks and marks[0] <= time:
                self.result.marks.append(self.now + max(0, marks.pop(0) - recorded) / 1e9)
            self.now += gap / 1e9
            self.settle(self.now)
            if hasattr(event, "end"):
                self.wait(event)
                recorded = max(recorded, event.end)
            else:
                self.post(event)
                recorded = max(recorded, time)
        self.result.marks += [self.now + max(0, m - (recorded or m)) / 1e9 for m in marks]
        self.result.seconds = self.now
        return self.result
