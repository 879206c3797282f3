"""Say how one test module fared in a pytest report: python .ci/part.py junit.xml tests.test_wheel [--may-skip NAME ...]

Fails when none of its tests ran, one failed, or one was skipped that is not named."""
import sys
import xml.etree.ElementTree as ET


def main(report, module, *rest):
    may_skip = set(rest[rest.index('--may-skip')+1:]) if '--may-skip' in rest else set()
    cases = [c for c in ET.parse(report).iter('testcase') if c.get('classname')==module]
    bad = [c.get('name') for c in cases if c.find('failure') is not None or c.find('error') is not None]
    skipped = [c.get('name') for c in cases if c.find('skipped') is not None]
    passed = len(cases)-len(bad)-len(skipped)
    print(f"{module.replace('.', '/')}.py: {passed} passed, {len(skipped)} skipped {skipped or ''}, {sum(float(c.get('time', 0)) for c in cases):.1f} s")
    return 1 if not passed or bad or set(skipped)-may_skip else 0


if __name__ == '__main__': sys.exit(main(*sys.argv[1:]))
