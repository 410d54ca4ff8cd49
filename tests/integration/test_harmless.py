"""Preloaded into programs that use no CUDA, libdjinn.so starts no thread, opens no socket, writes nothing and costs less than 5 ms."""
import pathlib
import shutil
import statistics
import subprocess
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import PRELOAD, Case, clean_environment

PROGRAMS = {
    "sh": ["sh", "-c", "ls /proc/self/fd | wc -l; ls /proc/$$/task | wc -l"],
    "git": ["git", "--version"],
    "python": [sys.executable, "-c", "import os; print(len(os.listdir('/proc/self/task')), sorted(os.readlink('/proc/self/fd/'+f) for f in "
               "os.listdir('/proc/self/fd') if os.path.exists('/proc/self/fd/'+f) and 'socket' in os.readlink('/proc/self/fd/'+f)))"],
}


def once(command, preload):
    env = clean_environment(**({"LD_PRELOAD": PRELOAD} if preload else {}))
    begin = time.perf_counter()
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    return time.perf_counter() - begin, (done.returncode, done.stdout, done.stderr)


class Harmless(Case):
    needs_torch = False

    def test_same_output_and_no_cost(self):
        for name, command in PROGRAMS.items():
            with self.subTest(program=name):
                times = {False: [], True: []}
                for _ in range(15):
                    results = {}
                    for preload in (False, True):
                        seconds, results[preload] = once(command, preload)
                        times[preload].append(seconds)
                    self.assertEqual(results[False], results[True])
                # the minimum is what the library costs; the rest is the machine's noise
                cost = min(times[True]) - min(times[False])
                print(f"{name}: {statistics.median(times[False])*1e3:.1f} ms alone, preload costs {cost*1e3:.2f} ms")
                self.assertLess(cost, 0.005)

    @unittest.skipUnless(shutil.which("strace"), "strace is not installed")
    def test_no_socket_and_no_thread_by_strace(self):
        command = ["strace", "-f", "-qq", "-e", "trace=socket,connect,clone,clone3", "-E", f"LD_PRELOAD={PRELOAD}", sys.executable, "-c", "print(1)"]
        done = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, timeout=60)
        calls = [line for line in done.stderr.splitlines() if "(" in line and "exited" not in line]
        self.assertEqual(calls, [])

    def test_needs_only_the_c_library(self):
        dynamic = subprocess.run(["readelf", "-d", str(PRELOAD)], capture_output=True, text=True, check=True, timeout=60).stdout
        needed = {line.split("[")[1].rstrip("]") for line in dynamic.splitlines() if "(NEEDED)" in line}
        self.assertLessEqual(needed, {"libc.so.6", "libm.so.6", "ld-linux-x86-64.so.2", "libgcc_s.so.1"})
        self.assertIn("[libcuda.so.1]", dynamic)


if __name__ == "__main__":
    unittest.main(verbosity=2)
