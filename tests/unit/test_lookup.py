"""What a configuration names, found in files of the user's own."""

import threading
from concurrent.futures import ThreadPoolExecutor

from rlhf.lookup import find_function


def test_threads_that_load_a_file_at_once_get_it_whole(tmp_path):
    file = tmp_path / "slow.py"
    file.write_text("import time\ntime.sleep(0.2)\n\ndef named():\n    return 1\n", encoding="utf-8")
    together = threading.Barrier(4)

    def find():
        together.wait(60)
        return find_function("key", f"{file}:named")

    with ThreadPoolExecutor(4) as pool:
        found = [future.result(60) for future in [pool.submit(find) for _ in range(4)]]
    assert len(set(found)) == 1
    assert found[0]() == 1
