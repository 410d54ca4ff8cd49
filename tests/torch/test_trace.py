"""`djinn trace`: a real program's timeline is well formed, and true: every op of the client's counter is there, work lies between its post and its acknowledgement, and a
wait carries the Python line that asked."""
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent / "hooks" / "python"))
from djinn.cli import _record, trace
from harness import BUILD, ROOT, Case, Server, clean_environment, run

PROGRAM = """import sys
sys.path.insert(0, TESTS)
import torch, torch.nn as nn
model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 1)).cuda()
optimizer = torch.optim.SGD(model.parameters(), 0.01)
x = torch.randn(64, 32).cuda()
for _ in range(6):
    optimizer.zero_grad()
    loss = model(x).pow(2).mean()
    loss.backward()
    optimizer.step()
    loss.item()
x[x > 0].sum()
torch.cuda.synchronize()
from counters import Counters
print("COUNTED", Counters().read()["ops"])
""".replace("TESTS", repr(str(ROOT / "tests")))
ITEM_LINE = 12


def djinn(*arguments, **environment):
    env = clean_environment(DJINN_BUILD=BUILD, DJINN_PYTHON=sys.executable, **environment)
    return subprocess.run([ROOT / "scripts" / "djinn", *map(str, arguments)], capture_output=True, text=True, timeout=120, env=env)


class Recorded(Case):
    """One run of a command over a program, which every test of the class looks at: `done`, what it wrote (`output`), the recording, the program's file."""
    command, source = (), ""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        folder = pathlib.Path(cls.folder.name)
        cls.program, cls.record_file, output = folder / "program.py", folder / "record", folder / "output.json"
        cls.program.write_text(cls.source)
        with Server("--threads", 1) as server:
            cls.done = djinn(*cls.command, output, "--record", cls.record_file, "--", sys.executable, cls.program, DJINN_SERVER=server.endpoint)
        assert cls.done.returncode == 0, cls.done.stderr
        cls.output = json.loads(output.read_text())


class Trace(Recorded):
    command, source = ("trace", "-o"), PROGRAM

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.counted = int(cls.done.stdout.split("COUNTED ")[1])
        cls.events, cls.record = cls.output["traceEvents"], _record.read(cls.record_file)

    def of(self, phase, category=None):
        return [e for e in self.events if e["ph"] == phase and category in (None, e.get("cat"))]

    def test_every_event_has_what_its_kind_needs_and_times_go_on(self):
        need = dict(X="dur name cat args", s="id name cat", f="id name cat bp", b="id name cat args", e="id name cat", i="name s", M="name args")
        for event in self.events:
            for key in ("ph", "pid", "tid", "ts", *need[event["ph"]].split()):
                self.assertIn(key, event)
            self.assertGreaterEqual(event["ts"], 0)
            self.assertGreaterEqual(event.get("dur", 0), 0)
        times = [e["ts"] for e in self.events if e["ph"] != "M"]
        self.assertEqual(times, sorted(times))
        named = {(e["pid"], e["tid"]) for e in self.of("M")}
        self.assertLessEqual({(e["pid"], e["tid"]) for e in self.events}, named)

    def test_slices_of_a_track_follow_each_other(self):
        for category in ("op", "work", "frame"):
            free = {}
            for e in self.of("X", category):
                self.assertGreaterEqual(e["ts"] + 1e-3, free.get((e["pid"], e["tid"]), 0), e)
                free[e["pid"], e["tid"]] = e["ts"] + e["dur"]

    def test_flows_are_paired(self):
        begins, ends = ({e["id"]: e for e in self.of(ph, "flow")} for ph in "sf")
        self.assertEqual(len(begins), len(self.of("s", "flow")))
        self.assertEqual(begins.keys(), ends.keys())
        self.assertTrue(begins)
        for number, begin in begins.items():
            self.assertLessEqual(begin["ts"], ends[number]["ts"])

    def test_every_op_that_was_counted_is_posted_and_worked(self):
        ops = [e for e in self.of("X", "op") if e["name"].startswith("aten::")]
        self.assertEqual(len(ops), self.counted)
        self.assertEqual(self.record.end.ops, self.counted)
        tickets = {e["args"]["ticket"] for e in self.of("X", "work")}
        self.assertLessEqual({e["args"]["ticket"] for e in ops}, tickets)

    # By the clocks' own word: the timeline itself is cut to fit, so the recording is asked. The offset is known to half a round trip.
    def test_work_lies_between_its_post_and_its_acknowledgement(self):
        error = self.record.session.round_trip / 2
        acknowledged = trace._acknowledgements(self.record)
        checked = 0
        for p in self.record.posted:
            if p.ticket in self.record.worked:
                w = self.record.worked[p.ticket]
                self.assertGreaterEqual(w.begin, p.time - error)
                self.assertLessEqual(w.begin, w.end)
                self.assertLessEqual(w.end, acknowledged[p.ticket] + error)
                checked += 1
        self.assertGreaterEqual(checked, self.counted)

    def test_the_waits_of_item_carry_its_line(self):
        lines = [e["args"].get("line", "") for e in self.of("X", "wait")]
        asked = [w for w in self.record.waited if (place := _record.own(w.stack)) and (place.file, place.line) == (str(self.program), ITEM_LINE)]
        self.assertEqual(len(asked), 6)
        self.assertEqual(sum(f"program.py:{ITEM_LINE} " in line for line in lines), sum(w.kind != "none" for w in asked))

    def test_modules_are_named(self):
        self.assertIn("0", {e["args"].get("module") for e in self.of("X", "op")})

    def test_a_recording_can_be_drawn_again_and_what_is_none_is_refused(self):
        with tempfile.TemporaryDirectory() as folder:
            again = djinn("trace", "--from", self.record_file, "-o", f"{folder}/again.json")
            self.assertEqual(again.returncode, 0, again.stderr)
            self.assertEqual(json.loads(pathlib.Path(folder, "again.json").read_text())["traceEvents"], self.events)
            refused = djinn("trace", "--from", self.program, "-o", f"{folder}/none.json")
            self.assertEqual(refused.returncode, 1)
            self.assertIn("is not a recording", refused.stderr)
            self.assertFalse(pathlib.Path(folder, "none.json").exists())

    def test_a_torn_recording_is_read_to_where_it_is_torn(self):
        data = self.record_file.read_bytes()
        torn = _record.Record(data[:len(data) * 2 // 3])
        self.assertIsNone(torn.end)
        self.assertTrue(torn.posted)
        self.assertTrue(trace.timeline(torn, 0))


class Unrecorded(Case):
    def test_a_program_without_a_device_leaves_nothing(self):
        done = djinn("trace", "--", sys.executable, "-c", "print('hello')")
        self.assertEqual(done.returncode, 1)
        self.assertIn("used no device", done.stderr)
        self.assertIn("hello", done.stdout)

    def test_what_cannot_be_written_is_said_before_the_program_runs(self):
        for arguments in (("trace", "-o", "/no/such/t.json"), ("doctor", "--json", "/no/such/d.json"), ("trace", "--record", "/no/such/record")):
            done = djinn(*arguments, "--", sys.executable, "-c", "print('ran')")
            self.assertEqual((done.returncode, done.stdout), (1, ""), done)
            self.assertIn("there is no folder /no/such", done.stderr)

    def test_an_interrupt_is_the_programs_own_affair(self):
        program = "import signal, time\ntry:\n    print('ready', flush=True)\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    time.sleep(1)\n    print('saved', flush=True)"
        env = clean_environment(DJINN_BUILD=BUILD, DJINN_PYTHON=sys.executable)
        with subprocess.Popen([ROOT / "scripts" / "djinn", "trace", "--", sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=env, start_new_session=True) as process:
            self.assertEqual(process.stdout.readline(), "ready\n")
            os.killpg(process.pid, signal.SIGINT)
            self.assertEqual(process.communicate(timeout=30)[0], "saved\n")

    def test_each_process_of_a_program_keeps_its_recording(self):
        with tempfile.TemporaryDirectory() as folder, Server("--threads", 1) as server:
            script = f"for i in 1 2; do {sys.executable} -c 'import torch; torch.ones(3).cuda().sum().item()'; done"
            done = djinn("doctor", "--record", f"{folder}/run[1]", "--", "sh", "-c", script, DJINN_SERVER=server.endpoint)
            self.assertEqual((done.returncode, done.stdout.count("Verdict: "), len(list(pathlib.Path(folder).iterdir()))), (0, 2, 2), done)

    def test_two_processes_of_one_name_do_not_mix(self):
        with tempfile.TemporaryDirectory() as folder, Server("--threads", 1) as server:
            program = "import subprocess, sys, torch; torch.ones(3).cuda().sum().item(); sys.argv[1:] or sys.exit(subprocess.run([sys.executable, '-c', open('/proc/self/cmdline').read().split(chr(0))[3], 'inner']).returncode)"
            done = run(program, server, DJINN_RECORD=f"{folder}/record")
            self.assertIn("another process writes it", done.err)
            self.assertTrue(_record.read(f"{folder}/record").end)


if __name__ == "__main__":
    unittest.main(verbosity=2)
