"""Sums the tests in the reports that `swift test --xunit-output` writes: count_xunit.py REPORT...

Prints the tests that failed, and `N passed, N failed, N skipped` as the last line whatever the reports are like: one
that is missing or ends early, as a crash leaves it, counts as a failure, and so does a run in which no test passed.
"""

import sys
import xml.etree.ElementTree as ElementTree


def main(paths):
    passed = failed = skipped = 0
    for path in paths:
        try:
            report = ElementTree.parse(path).getroot()
        except (OSError, ElementTree.ParseError) as reason:
            failed += 1
            print(f"FAILED: the tests left no report: {reason}")
            continue
        for case in report.iter("testcase"):
            if case.find("failure") is not None or case.find("error") is not None:
                failed += 1
                print(f"FAILED: {case.get('classname')}: {case.get('name')}")
            elif case.find("skipped") is not None:
                skipped += 1
            else:
                passed += 1
    if passed == 0 and failed == 0:
        failed = 1
        print("FAILED: no test passed")
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
