"""docs/compatibility.md hides nothing: a failing row of a run is a failing line of the page, a reviewed one names its reason; and the page in the
repository has the reviewed table of today."""
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from known import KNOWN

PAGE = HERE.parent.parent / "docs" / "compatibility.md"


def row(entry, **more):
    return dict(dict(entry=entry, dtype="float32", direction="forward", samples=3, bitwise=3, status="ok", detail=""), **more)


class Report(unittest.TestCase):
    def page(self, sweep, suite):
        with tempfile.TemporaryDirectory() as folder:
            run = dict(torch="2.14.1", perf="", jobs=2, seconds=60)
            pathlib.Path(folder, "opinfo.json").write_text(json.dumps(dict(run, rows=sweep)))
            pathlib.Path(folder, "suites.json").write_text(json.dumps(dict(torch="2.14.1", packages={}, rows=suite)))
            return subprocess.run([sys.executable, str(HERE / "report.py"), folder], capture_output=True, text=True, check=True).stdout

    def test_failures_are_shown(self):
        sweep = [row("abs"), row("cos", status="wrong", bitwise=0, detail="sample 0: 5 is not 4"), row("narrow_copy", direction="out", status="error")]
        suite = [dict(suite="models", case="gpt2", shows="GPT-2", status="crash", detail="status -11", seconds=1)]
        page = self.page(sweep, suite)
        self.assertIn("| float32 | forward | 1 | 0 | 1 | 6 | 50.00% |", page)
        self.assertIn("| float32 | out | 0 | 1 | 0 |", page)
        self.assertIn("Failing: `cos` float32 forward: sample 0: 5 is not 4", page)
        self.assertIn("| GPT-2 | crash: status -11 |", page)

    def test_reviewed_table_is_current(self):
        page = PAGE.read_text()
        for entry, _, _, why in KNOWN:
            self.assertIn(f"| `{entry}` |", page)
            self.assertIn(why.replace("|", "\\|"), page)


if __name__ == "__main__":
    unittest.main(verbosity=2)
