"""Where the real CT files are that some tests read: LUNGADV_REAL_CT, or a folder beside the clone."""

import pytest

from lungadv.utils.files import real_folder

REAL = real_folder()
UID = "1.3.6.1.4.1.14519.5.2.1.6279.6001.179049373636438705059720603192"  # LIDC-IDRI-0001
real = pytest.mark.skipif(not REAL.is_dir(), reason=f"no real scans at {REAL}: set LUNGADV_REAL_CT")
