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
from harness import BUILD, Case, clean_environment

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
