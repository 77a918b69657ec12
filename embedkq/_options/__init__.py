"""What users may set. `declared` lists every option once; the constructors, `kq`, the environment,
Flask's configuration and the guide are made from that list or held against it by tests.

    option.py      what an option is: name, type, default, unit, check, help, where it can be set
    declared.py    the list
    checks.py      checks of values
    client.py      options for a client of kafka-python
    names.py       refuses unknown names with the nearest known one

A new option: a row in `declared`, a parameter of its taker, a row in the guide's tables. The tests
of the doors name what is missing.
"""

from __future__ import annotations

from embedkq._options.checks import (
    check_backoff,
    check_callback,
    check_count,
    check_group,
    check_headers,
    check_hosts,
    check_job_size,
    check_key,
    check_offset_policy,
    check_partition,
    check_retries,
    check_retry_on,
    check_timeout,
    check_topic,
    make_signer,
)
from embedkq._options.client import TLSFiles, client_config, is_protected
from embedkq._options.names import nearest

__all__ = [
    "TLSFiles",
    "check_backoff",
    "check_callback",
    "check_count",
    "check_group",
    "check_headers",
    "check_hosts",
    "check_job_size",
    "check_key",
    "check_offset_policy",
    "check_partition",
    "check_retries",
    "check_retry_on",
    "check_timeout",
    "check_topic",
    "client_config",
    "is_protected",
    "make_signer",
    "nearest",
]
