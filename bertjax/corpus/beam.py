"""The preparation as an Apache Beam pipeline, for corpora beyond one machine (extra ``beam``).

The same functions read, cut, tokenize and write as on one machine, so the shards are the same. The
output folder is the only thing that Beam's workers share: they read the inputs and write there.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import shlex
from collections.abc import Iterator
from typing import Any

from bertjax.corpus.shards import Group, Job, Part, Watch
from bertjax.types import UserError

NAMESPACE, SIZE, DOCUMENTS = "bertjax", "text_bytes", "documents"


def run_beam(job: Job, watch: Watch, options: str = "") -> None:
    """Makes the shards of a job.

    Args:
      job: what to make.
      watch: is told at the end.
      options: Beam's flags, such as ``--runner=DataflowRunner --project=...``.

    Raises:
      UserError: if Beam is not installed, or a text cannot be read or tokenized.
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError:
        raise UserError("--runner=beam needs Apache Beam: pip install 'bertjax[beam]'") from None

    # Of a worker's error they log the traceback, many times; its sentence is told below.
    for name in ("apache_beam.runners.common", "apache_beam.runners.worker"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    pipeline = beam.Pipeline(options=PipelineOptions(shlex.split(options)))
    shared = dataclasses.replace(job, groups={})  # each worker gets only the paths of its groups
    _ = (
        pipeline
        | "groups of files" >> beam.Create(list(job.groups.items()))
        | "spread the groups" >> beam.Reshuffle()
        | "read and cut" >> beam.FlatMap(_parts, shared)
        | "spread the parts" >> beam.Reshuffle()
        | "tokenize and write" >> beam.Map(_write, shared)
    )
    try:
        result = pipeline.run()
        result.wait_until_finish()
    except Exception as error:
        raise told(error) from error
    watch(_count(result, SIZE), _count(result, DOCUMENTS))


def _parts(group: tuple[int, Group], job: Job) -> Iterator[Part]:
    return job.parts(*group)


def _write(part: Part, job: Job) -> None:
    from apache_beam.metrics import Metrics

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    size, documents = Metrics.counter(NAMESPACE, SIZE), Metrics.counter(NAMESPACE, DOCUMENTS)

    def count(text_bytes: int, number: int) -> None:
        size.inc(text_bytes)
        documents.inc(number)

    job.write(part, job.encoder(), count)


def _count(result: Any, name: str) -> int:
    from apache_beam.metrics import MetricsFilter

    wanted = MetricsFilter().with_namespace(NAMESPACE).with_name(name)
    return sum(counter.result or 0 for counter in result.metrics().query(wanted)["counters"])


def told(error: Exception) -> Exception:
    """The sentence for the user in an error of Beam, which holds the text of a worker's error."""
    text = f"UserError: {error}" if isinstance(error, UserError) else str(error)
    found = re.search(r"UserError: (.+?)(?: \[while running|\\n|\n|$)", text)
    return UserError(found[1]) if found else error
