"""A steady load on a topic, from a process of its own: `rate` events a second, each with its own time.

    python -m benchmarks.load BROKERS TOPIC RATE SECONDS CUSTOMERS

Prints the events a second that it came to; less than was asked for is the machine's limit, and is shown.
Payloads are rendered first, then "ready" is printed and the clock starts: rendered tick by tick they took 0.4
of a core at 10,000 events/s from what is measured.
"""

from __future__ import annotations

import sys
import time

import numpy as np
from confluent_kafka import Producer

from benchmarks.events import Shape, draw
from benchmarks.truth import customer_name

TICK_S = 0.02
READY = "ready"
RENDERED_A_SECOND = 200_000
"""At least."""


def main() -> None:
    brokers, topic = sys.argv[1:3]
    rate, seconds, customers = (int(argument) for argument in sys.argv[3:])
    producer = Producer({"bootstrap.servers": brokers, "linger.ms": 5, "compression.type": "lz4"})
    names = np.array([customer_name(number).encode() for number in range(customers)], object)
    begins = time.time() + 1 + rate * seconds / RENDERED_A_SECOND
    events = draw(Shape(rate * seconds, customers, rate=rate), round(begins * 1000))
    payloads, keys = events.payloads().tolist(), names[events.customer].tolist()
    time.sleep(max(0.0, begins - time.time()))
    print(READY, flush=True)
    began, sent = time.perf_counter(), 0
    while sent < len(events):
        due = min(len(events), int((time.perf_counter() - began) * rate))
        try:
            for at in range(sent, due):
                producer.produce(topic, payloads[at], keys[at])
                sent = at + 1
        except BufferError:  # the broker takes less than is asked of it: what the load came to says so
            pass
        producer.poll(TICK_S)
    producer.flush(60)
    print(round(sent / (time.perf_counter() - began)), flush=True)


if __name__ == "__main__":
    main()
