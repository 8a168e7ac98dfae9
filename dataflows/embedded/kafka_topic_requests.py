"""The requests about topics: Metadata, CreateTopics, DeleteTopics, CreatePartitions.

(broker, request, version) -> response
"""

from dataflows.embedded.kafka_broker import NODE_ID, Broker
from dataflows.embedded.kafka_wire import Api, ApiKey, ErrorCode, Reader, RefusedError, Writer

_NO_OPERATIONS = -(2**31)  # "authorized operations were not asked for"


async def metadata(broker: Broker, request: Reader, version: int) -> Writer:
    names = request.nullable_array(request.string)
    may_create = broker.config.auto_create and (request.boolean() if version >= 4 else True)
    if names is None or (version == 0 and not names):
        names = list(broker.topics.topics)
    response = Writer()
    if version >= 3:
        response.int32(0)
    response.int32(1)  # one broker
    response.int32(NODE_ID)
    response.string(broker.host)
    response.int32(broker.port)
    if version >= 1:
        response.string(None)  # rack
    if version >= 2:
        response.string(broker.topics.cluster_id)
    if version >= 1:
        response.int32(NODE_ID)  # controller

    def write(name: str) -> None:
        code = ErrorCode.NONE
        try:
            if may_create and name not in broker.topics.topics:
                broker.topics.create(name, -1, {})
            partitions = len(broker.topics.topic(name).logs)
        except RefusedError as error:
            code, partitions = error.code, 0
        _write_topic(response, version, name, code, partitions)

    response.array(names, write)
    if version >= 8:
        response.int32(_NO_OPERATIONS)
    return response


def _write_topic(response: Writer, version: int, name: str, code: ErrorCode, partitions: int) -> None:
    response.int16(code)
    response.string(name)
    if version >= 1:
        response.boolean(False)  # internal
    response.int32(partitions)
    for index in range(partitions):
        response.int16(ErrorCode.NONE)
        response.int32(index)
        response.int32(NODE_ID)
        if version >= 7:
            response.int32(0)  # leader epoch
        response.array([NODE_ID], response.int32)  # replicas
        response.array([NODE_ID], response.int32)  # in sync
        if version >= 5:
            response.int32(0)  # offline
    if version >= 8:
        response.int32(_NO_OPERATIONS)


async def create_topics(broker: Broker, request: Reader, version: int) -> Writer:
    def topic() -> tuple[str, int, int, dict[str, str]]:
        name, partitions, replicas = request.string(), request.int32(), request.int16()
        assigned = request.array(lambda: (request.int32(), request.array(request.int32)))
        configs = dict(request.array(lambda: (request.string(), request.string())))
        return name, len(assigned) or partitions, replicas, configs

    topics = request.array(topic)
    request.int32()  # timeout
    validate_only = version >= 1 and request.boolean()
    response = Writer()
    if version >= 2:
        response.int32(0)

    def write(item: tuple[str, int, int, dict[str, str]]) -> None:
        name, partitions, replicas, configs = item
        code, message = ErrorCode.NONE, None
        try:
            if replicas > 1:
                raise RefusedError(ErrorCode.INVALID_REPLICATION_FACTOR, "there is one broker")
            broker.topics.create(name, partitions, configs, validate_only=validate_only)
        except RefusedError as error:
            code, message = error.code, error.message
        response.string(name)
        response.int16(code)
        if version >= 1:
            response.string(message)

    response.array(topics, write)
    return response


async def delete_topics(broker: Broker, request: Reader, version: int) -> Writer:
    response = Writer()
    if version >= 1:
        response.int32(0)

    def write(name: str) -> None:
        code = ErrorCode.NONE
        try:
            broker.topics.delete(name)
            broker.offsets.forget_topic(name)
        except RefusedError as error:
            code = error.code
        response.string(name)
        response.int16(code)

    response.array(request.array(request.string), write)
    return response


async def create_partitions(broker: Broker, request: Reader, version: int) -> Writer:
    def topic() -> tuple[str, int]:
        name, count = request.string(), request.int32()
        request.nullable_array(lambda: request.array(request.int32))  # assignments
        return name, count

    topics = request.array(topic)
    request.int32()  # timeout
    validate_only = request.boolean()
    response = Writer()
    response.int32(0)

    def write(item: tuple[str, int]) -> None:
        name, count = item
        code, message = ErrorCode.NONE, None
        try:
            broker.topics.add_partitions(name, count, validate_only=validate_only)
        except RefusedError as error:
            code, message = error.code, error.message
        response.string(name)
        response.int16(code)
        response.string(message)

    response.array(topics, write)
    return response


APIS = {
    ApiKey.METADATA: Api(0, 8, metadata),
    ApiKey.CREATE_TOPICS: Api(0, 4, create_topics),
    ApiKey.DELETE_TOPICS: Api(0, 3, delete_topics),
    ApiKey.CREATE_PARTITIONS: Api(0, 1, create_partitions),
}
