"""Scripts whose functions belong to `__main__`, run as users run them, with a child that never sees
their `__main__`."""

from __future__ import annotations

from pathlib import Path

from support import run_script

# Every script begins with this: `there` has a child run calls as a worker's child does, and gives
# back, for each, the call and its result or exception, as the host decodes them.
HARNESS = '''
import os, pickle, subprocess, sys
from embedkq import codec
from embedkq._formats.outcome import Outcome

CHILD = """
import pickle, sys
from embedkq import codec
from embedkq._child.job_call import run_call
payloads = pickle.load(sys.stdin.buffer)
outcomes = [run_call(*codec.decode_call(payload), describe=False).pack() for payload in payloads]
assert not hasattr(sys.modules["__main__"], "there"), "the child has the host's __main__"
sys.stdout.buffer.write(pickle.dumps(outcomes))
"""

def there(*calls):
    payloads = [codec.encode_call(*call, *((), {})[len(call) - 1:]) for call in calls]
    done = subprocess.run([sys.executable, "-c", CHILD], input=pickle.dumps(payloads), stdout=subprocess.PIPE, check=True)
    ended = []
    for payload, packed in zip(payloads, pickle.loads(done.stdout)):
        outcome = Outcome.unpack(packed)
        assert outcome.status != "undecodable", outcome.message
        ended.append((codec.decode_call(payload), codec.decode_object(outcome.payload)))
    return ended

def results(*calls):
    return [result for _, result in there(*calls)]
'''


def run_main(tmp_path: Path, body: str) -> None:
    """Run a script that asserts; what it says on the way to a failure is shown."""
    script = tmp_path / "app.py"
    script.write_text(HARNESS + body + '\nprint("reached the end")\n')
    done = run_script(script)
    assert done.returncode == 0 and done.stdout.endswith("reached the end\n"), (
        done.stdout + done.stderr
    )
