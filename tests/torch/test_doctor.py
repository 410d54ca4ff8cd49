"""`djinn doctor`: it names the lines that wait, counts them, and its predictions come true."""
import pathlib
import sys
import tempfile
import types
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "bench"))
import predict
import test_trace
from djinn.cli import _predict, _record
from harness import Case, Server, run

PROGRAM = """import threading
import torch
import torch.nn as nn

model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1)).cuda()
x = torch.randn(512, 64).cuda()  # 128 KiB, pageable
optimizer = torch.optim.SGD(model.parameters(), 0.01)


def train(steps):
    total = 0.0
    for step in range(steps):
        optimizer.zero_grad()
        loss = model(x).pow(2).mean()
        loss.backward()
        optimizer.step()
        total += loss.item()
        if loss > 1e9:
            break
    return total


train(9)
big = x[x > 0]


def other():
    for _ in range(4):
        x.sum().item()


t = threading.Thread(target=other)
t.start()
t.join()
torch.cuda.synchronize()
"""
OP_RUN, MODULE_LOAD = 0x53, 0x40  # semantic/wire/command.hpp
ITEM, TRUTH, COPY, INDEX, THREAD, SYNCHRONIZE = 17, 18, 6, 24, 29, 35


class Doctor(test_trace.Recorded):
    command, source = ("doctor", "--json"), PROGRAM

    def line(self, section, number):
        told, = self.output
        rows = [r for r in told[section] if (r["file"], r["line"]) == (str(self.program), number)]
        self.assertEqual(len(rows), 1, (section, number, told[section]))
        return rows[0]

    def test_each_line_that_waits_is_told_with_how_often(self):
        for number, times in ((ITEM, 9), (TRUTH, 9), (THREAD, 4), (SYNCHRONIZE, 1)):
            self.assertEqual(self.line("waits", number)["count"], times, number)
        self.assertEqual(self.line("waits", ITEM)["text"], "total += loss.item()")
        self.assertEqual(self.line("waits", ITEM)["function"], "train")

    def test_what_a_line_costs_grows_with_the_round_trip(self):
        cost = self.line("waits", ITEM)["cost"]
        self.assertGreater(cost["30"], 9 * 0.03)
        self.assertLess(cost["1"], cost["30"])

    def test_the_pageable_copy_and_the_op_that_runs_first_have_their_lines(self):
        copy = self.line("copies", COPY)
        self.assertEqual((copy["direction"], copy["bytes"], copy["count"]), ("to device", 512 * 64 * 4, 1))
        first = self.line("server_first", INDEX)
        self.assertEqual((first["name"], first["count"]), ("aten::index", 1))

    def test_it_is_said_in_words(self):
        for text in ("Lines that wait for the device", f"program.py:{ITEM} train   total += loss.item()", "aten::index", "Verdict: ", "at 30 ms", f"program.py:{COPY}"):
            self.assertIn(text, self.done.stdout)


class Lines(Case):
    # Whoever has the interpreter's lock may be waiting for one that the asking thread has: it must go on without an answer.
    def test_a_wait_ends_though_another_thread_keeps_the_interpreter(self):
        program = """
import ctypes, threading, torch
x = torch.ones(8).cuda()
held = ctypes.PyDLL(None)           # a call of it keeps the interpreter's lock
t = threading.Thread(target=lambda: [held.usleep(200000) for _ in range(3)])
t.start()
for _ in range(3):
    x.sum().item()
t.join()
print("DONE")
"""
        with tempfile.TemporaryDirectory() as folder, Server("--threads", 1) as server:
            self.assertIn("DONE", run(program, server, timeout=60, DJINN_RECORD=f"{folder}/record").out)
            waited = [w for w in _record.read(f"{folder}/record").waited if w.name == "cudaStreamSynchronize"]
            self.assertGreaterEqual(len(waited), 3)
            self.assertLess(max(w.looking for w in waited), 100e6)

    def test_a_wait_in_backward_is_told_as_the_line_that_called_it(self):
        program = """
import torch
x = torch.ones(64, device="cuda", requires_grad=True)
y = x.prod()
y.backward()  # looks for zeros, in autograd's own thread
torch.cuda.synchronize()
"""
        with tempfile.TemporaryDirectory() as folder, Server("--threads", 1) as server:
            run(program, server, DJINN_RECORD=f"{folder}/record")
            record = _record.read(f"{folder}/record")
        lines = [_record.own(w.stack) for w in record.waited if record.threads[w.thread].startswith("pt_autograd")]
        self.assertTrue(lines)
        self.assertEqual({(p.file, p.line) for p in lines}, {("<string>", 5)})


class Model(unittest.TestCase):
    """Of a recording that is made up, so that what must come out is known: units of 100 µs of thinking, one command of 200 µs of work, and a wait for it."""
    THINK, WORK, WAY = 100_000, 200_000, 30_000  # nanoseconds; a way there, and one back

    def program(self, units=50, module_load=False):
        record = types.SimpleNamespace(posted=[], waited=[], copied=[], aborted=[], sent=[], acknowledged=[], worked={}, end=None)
        record.session = _record.Session(0, 0, 0, 2 * self.WAY, 1, 1, 1 << 14, 1 << 28, 1, "program", "host", "")
        now, free, marks = 0, 0, []

        def post(ticket, opcode, size, work, wait=True):
            nonlocal now, free
            record.posted.append(_record.Posted(ticket, now, 1, opcode, "op", "", "", 0, size))
            record.sent.append(_record.Sent(now, ticket, ticket, size))
            begin = max(now + self.WAY, free)
            free = begin + work
            if opcode != MODULE_LOAD:
                record.worked[ticket] = _record.Worked(begin, free)
            record.acknowledged.append(_record.Acknowledged(free + self.WAY, ticket, 100))
            if wait:
                record.waited.append(_record.Waited(now, free + self.WAY, ticket, 1, "executed", "cudaStreamSynchronize", "", 0, (), 0))
                now = free + self.WAY

        if module_load:  # 40 MB that the server reads for 50 ms, which it does not tell, between two works
            post(1, OP_RUN, 200, self.WORK, wait=False)
            post(2, MODULE_LOAD, 40 << 20, 50_000_000, wait=False)
        post(3, OP_RUN, 200, self.WORK)
        for ticket in range(4, 4 + units):
            marks.append(now)
            now += self.THINK
            post(ticket, OP_RUN, 200, self.WORK)
        return _predict.Program(record), marks + [now]

    def test_a_unit_takes_its_thinking_its_work_and_the_round_trip(self):
        for load in (False, True):
            program, marks = self.program(module_load=load)
            for rtt in (0.0, 1e-4, 1e-3, 3e-2):
                played = program.play(_predict.Network(rtt), marks).marks
                unit = (played[-1] - played[0]) / (len(marks) - 1)
                self.assertAlmostEqual(unit, (self.THINK + self.WORK + 2 * self.WAY) / 1e9 + rtt, delta=2e-6, msg=f"module load {load}, rtt {rtt}")


class Prediction(Case):
    # Of the median step, over networks that take more of it than the machine does, whose speed moves by a third between two runs when it is busy. A wrong
    # model is wrong by a factor (without the round trips 10). Closer, and over quick networks: tests/bench/predict.py, which wants a quiet machine.
    ERROR_MAX, TRIES = 0.20, 3

    def test_a_training_loop_with_item_takes_as_long_as_was_predicted(self):
        seen = []
        for _ in range(self.TRIES):
            seen.append({r["rtt_ms"]: round(r["unit_error"], 3) for r in predict.compare("cnn_item", (20.0, 60.0), rounds=1, repeat=25)})
            if all(abs(e) <= self.ERROR_MAX for e in seen[-1].values()):
                return
        self.fail(f"predicted / measured - 1 by round-trip time, three times: {seen}")

    def test_over_the_network_of_the_recording_the_model_repeats_what_was(self):
        with tempfile.TemporaryDirectory() as folder, Server("--threads", 1) as server:
            marks = predict.steady(server, "cnn_item", 30, DJINN_RECORD=f"{folder}/record", DJINN_LINK="rtt=20ms")
            program = _predict.Program(_record.read(f"{folder}/record"))
        self.assertEqual(program.recorded.rtt, 0.02)
        played, real = predict.times_of(program.play(program.recorded, marks).marks), predict.times_of(marks, 1e9)
        for key in ("total", "unit"):
            self.assertLess(abs(played[key] / real[key] - 1), self.ERROR_MAX, (key, played, real))


if __name__ == "__main__":
    unittest.main(verbosity=2)
