"""An error that arrives later names the line that posted what failed, and not the one that happened to wait: through PyTorch's own frames, with the shape cache
and without it, from threads, from the backward, and while another thread keeps the interpreter."""
import pathlib
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import Case, Server, run

PROGRAM = """import sys, threading
import torch
import torch.nn as nn

torch.zeros(1).cuda()


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(10, 4)

    def forward(self, i):
        return self.table(i)  # THE LINE


def picks(x, i):
    return x.gather(0, i)  # GATHER


def late():
    model = Model().cuda()
    for _ in range(int(sys.argv[2])):  # the shape cache learns
        model(torch.tensor([1, 2]).cuda())
    bad = torch.tensor([1, 99]).cuda()
    try:
        model(bad)
        print("posted")
        torch.cuda.synchronize()
    except RuntimeError as e:
        print(str(e).splitlines()[0])


def in_a_thread():
    thread = threading.Thread(target=late)
    thread.start()
    thread.join()


def backward():
    x = torch.ones(4, 3, device="cuda", requires_grad=True)
    i = torch.zeros(2, 3, dtype=torch.long, device="cuda")
    y = picks(x, i).sum()
    with torch.no_grad():
        i.data.fill_(77)  # behind autograd's back: the forward was right, the backward is not
    try:
        y.backward()
        torch.cuda.synchronize()
    except RuntimeError as e:
        print(str(e).splitlines()[0])


def kept():
    import ctypes, time
    held = ctypes.PyDLL(None)  # a call of it keeps the interpreter's lock
    x = torch.ones(8).cuda()
    thread = threading.Thread(target=lambda: [held.usleep(300000) for _ in range(3)])
    thread.start()
    begin = time.perf_counter()
    y = x + 1
    print("DONE", y.sum().item())
    thread.join()


def absent():
    import ctypes
    ctypes.CDLL(None).cudaMallocArray(None, None, 4, 4, 0)  # ABSENT


dict(absent=absent, late=late, thread=in_a_thread, backward=backward, kept=kept)[sys.argv[1]]()
"""


def line_of(mark):
    return next(n for n, text in enumerate(PROGRAM.splitlines(), 1) if text.endswith(mark))


class ErrorLines(Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        cls.program = pathlib.Path(cls.folder.name) / "program.py"
        cls.program.write_text(PROGRAM)
        cls.server = cls.enterClassContext(Server("--threads", 1))

    def said(self, *arguments, **environment):
        return run(self.program, self.server, list(arguments), **environment).out.splitlines()

    def test_the_line_of_the_op_is_named_and_not_that_of_the_wait(self):
        for times, perf in (("0", None), ("3", None), ("3", "no_shape_cache")):
            with self.subTest(times=times, perf=perf):
                posted, message = self.said("late", times, DJINN_PERF=perf)
                self.assertEqual(posted, "posted")
                self.assertIn(f"aten::embedding in table ({self.program}:{line_of('# THE LINE')}): ", message)

    def test_a_thread_of_python_has_its_lines(self):
        self.assertIn(f"({self.program}:{line_of('# THE LINE')}): ", self.said("thread", "0")[-1])

    def test_an_error_in_the_backward_names_the_line_of_its_forward(self):
        message, = self.said("backward", "0")
        self.assertIn(f"aten::scatter_add_ ({self.program}:{line_of('# GATHER')}): ", message)

    def test_switched_off_no_line_is_named(self):
        _, message = self.said("late", "0", DJINN_PERF="no_error_lines")
        self.assertIn("aten::embedding in table: ", message)

    def test_what_is_not_supported_is_named_with_its_line(self):
        done = run(self.program, self.server, ["absent"])
        self.assertIn(f"cudaMallocArray ({self.program}:{line_of('# ABSENT')}) is not supported: ", done.err)

    def test_who_keeps_the_interpreter_does_not_stop_it(self):
        self.assertEqual(self.said("kept", "0"), ["DONE 16.0"])


if __name__ == "__main__":
    unittest.main(verbosity=2)
