"""`cmake --install` puts libdjinn.so, whose SONAME is libcuda.so.1, where ldconfig does not look: otherwise every CUDA program of the machine would
get Djinn for its driver. The folder is private, and a bare LD_PRELOAD=libdjinn.so works from it through LD_LIBRARY_PATH."""
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import BUILD, ROOT, Case, Server, clean_environment, torch_directory

LDCONFIG = shutil.which("ldconfig", path="/usr/sbin:/sbin:/usr/bin:/bin")


def soname(path):
    dynamic = subprocess.run(["readelf", "-d", str(path)], capture_output=True, text=True, timeout=60).stdout
    found = re.search(r"\(SONAME\).*\[(.*)\]", dynamic)
    return found.group(1) if found else None


class Install(Case):
    needs_torch = False

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        folder = tempfile.TemporaryDirectory(prefix="djinn-install-")
        cls.addClassCleanup(folder.cleanup)
        cls.prefix = pathlib.Path(folder.name)
        done = subprocess.run(["cmake", "--install", str(BUILD), "--prefix", str(cls.prefix)], capture_output=True, text=True, timeout=120, env=clean_environment())
        if done.returncode:
            raise AssertionError(done.stdout + done.stderr)
        cls.private = cls.prefix / "lib" / "djinn"

    def test_everything_is_there(self):
        self.assertTrue((self.prefix / "bin" / "djinn-gpu-server").exists())
        self.assertTrue((self.private / "libdjinn.so").exists())
        self.assertTrue((self.private / "libdjinn_link.so").exists())

    @unittest.skipUnless(torch_directory() and shutil.which("g++"), "torch or g++ is not installed")
    def test_a_program_is_built_and_run_against_the_prefix(self):
        source, program = self.prefix / "program.cpp", self.prefix / "program"
        text = (ROOT / "tests" / "integration" / "coordinator_program.cpp").read_text()
        source.write_text(text.replace('"hooks/coordinator/coordinator.hpp"', "<djinn/coordinator.hpp>"))
        # the line of docs/op_api.md
        command = ["g++", "-std=c++20", f"-I{self.prefix}/include", str(source), "-o", str(program), f"-L{self.private}", "-ldjinn_coordinator",
                   f"-Wl,-rpath,{self.private}"]
        built = subprocess.run(command, capture_output=True, text=True, timeout=300)
        self.assertEqual(built.returncode, 0, built.stderr)
        with Server() as server:
            done = subprocess.run([str(program), server.endpoint], capture_output=True, text=True, timeout=120, env=clean_environment())
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("4 round trips", done.stdout)

    def test_c_programs_find_their_header(self):
        command = ["cc", "-std=c11", "-fsyntax-only", "-Werror", f"-I{self.prefix}/include", "-x", "c", "-"]
        done = subprocess.run(command, input="#include <djinn/coordinator.h>\n", capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_the_driver_s_name_is_in_the_private_folder_only(self):
        drivers = [p for p in self.prefix.rglob("*.so*") if soname(p) == "libcuda.so.1" or p.name.startswith("libcuda.so")]
        self.assertIn(self.private / "libdjinn.so", drivers, "libdjinn.so should call itself libcuda.so.1")
        self.assertEqual([p for p in drivers if p.parent != self.private], [])

    @unittest.skipUnless(LDCONFIG, "ldconfig is not installed")
    def test_ldconfig_makes_no_link(self):
        """What ldconfig does to the folders it scans (the prefix's lib, not what lies below it): it links each library's SONAME."""
        scanned = [d for d in (self.prefix / "lib", self.prefix / "lib64", self.prefix / "lib" / "x86_64-linux-gnu") if d.is_dir()]
        self.assertNotEqual(scanned, [])
        subprocess.run([LDCONFIG, "-n", *map(str, scanned)], check=True, timeout=60)
        self.assertEqual([p for p in self.prefix.rglob("libcuda.so*")], [])

    def test_bare_preload_through_the_library_path(self):
        env = clean_environment(LD_LIBRARY_PATH=self.private, LD_PRELOAD="libdjinn.so")
        done = subprocess.run(["cat", "/proc/self/maps"], env=env, capture_output=True, text=True, timeout=60)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertIn(str(self.private / "libdjinn.so"), done.stdout)


if __name__ == "__main__":
    unittest.main(verbosity=2)
