"""The requests about committed offsets: OffsetCommit, OffsetFetch, FindCoordinator, and groups as lists.

(broker, request, version) -> response

A group here is a name with offsets. It has no members: consumers `assign()` their partitions.
"""

from dataflows.embedded.kafka_broker import NODE_ID, Broker
from dataflows.embedded.kafka_offsets import Commit
from dataflows.embedded.kafka_wire import (
    NO_TRANSACTIONS,
    Api,
    ApiKey,
    ErrorCode,
    Reader,
    RefusedError,
    Writer,
)

_GROUP = 0
_NO_OPERATIONS = -(2**31)  # "authorized operations were not asked for"


async def offset_commit(broker: Broker, request: Reader, version: int) -> Writer:
    group = request.string()
    request.int32()  # generation
    request.string()  # member id
    if version >= 7:
        request.nullable_string()  # group instance id
    if version <= 4:
        request.int64()  # retention

    def partition(topic: str) -> Commit:
        index, offset = request.int32(), request.int64()
        if version >= 6:
            request.int32()  # leader epoch
        return Commit(topic, index, offset, request.string())

    def topic() -> tuple[str, list[Commit]]:
        name = request.string()
        return name, request.array(lambda: partition(name))

    topics = request.array(topic)
    codes = {commit: _refusal(broker, group, commit) for _, commits in topics for commit in commits}
    accepted = [commit for commit, code in codes.items() if code is ErrorCode.NONE]
    try:
        broker.offsets.commit(group, accepted)
    except RefusedError as error:
        codes.update(dict.fromkeys(accepted, error.code))
    response = Writer()
    if version >= 3:
        response.int32(0)

    def write_partition(commit: Commit) -> None:
        response.int32(commit.partition)
        response.int16(codes[commit])

    def write_topic(item: tuple[str, list[Commit]]) -> None:
        response.string(item[0])
        response.array(item[1], write_partition)

    response.array(topics, write_topic)
    return response


def _refusal(broker: Broker, group: str, commit: Commit) -> ErrorCode:
    try:
        broker.topics.log(commit.topic, commit.partition)
        broker.offsets.check(group, commit)
    except RefusedError as error:
        return error.code
    return ErrorCode.NONE


async def offset_fetch(broker: Broker, request: Reader, version: int) -> Writer:
    group = request.string()
    asked = request.nullable_array(lambda: (request.string(), request.array(request.int32)))
    topics = list(broker.offsets.of_group(group).items()) if asked is None else asked
    response = Writer()
    if version >= 3:
        response.int32(0)

    def write_topic(item: tuple[str, list[int]]) -> None:
        topic, partitions = item
        response.string(topic)
        response.int32(len(partitions))
        for partition in partitions:
            commit = broker.offsets.committed(group, topic, partition)
            response.int32(partition)
            response.int64(commit.offset if commit else -1)
            if version >= 5:
                response.int32(-1)  # leader epoch
            response.string(commit.metadata if commit else "")
            response.int16(ErrorCode.NONE)

    response.array(topics, write_topic)
    if version >= 2:
        response.int16(ErrorCode.NONE)
    return response


async def find_coordinator(broker: Broker, request: Reader, version: int) -> Writer:
    request.string()  # the group
    is_group = version == 0 or request.int8() == _GROUP
    response = Writer()
    if version >= 1:
        response.int32(0)
    response.int16(ErrorCode.NONE if is_group else NO_TRANSACTIONS)
    if version >= 1:
        response.string(None if is_group else "this broker has no transactions")
    response.int32(NODE_ID if is_group else -1)
    response.string(broker.host if is_group else "")
    response.int32(broker.port if is_group else -1)
    return response


async def list_groups(broker: Broker, request: Reader, version: int) -> Writer:
    response = Writer()
    if version >= 1:
        response.int32(0)
    response.int16(ErrorCode.NONE)

    def write(group: str) -> None:
        response.string(group)
        response.string("")  # no protocol, so no members

    response.array(broker.offsets.groups(), write)
    return response


async def describe_groups(broker: Broker, request: Reader, version: int) -> Writer:
    groups = request.array(request.string)
    response = Writer()
    if version >= 1:
        response.int32(0)
    known = set(broker.offsets.groups())

    def write(group: str) -> None:
        response.int16(ErrorCode.NONE)
        response.string(group)
        response.string("Empty" if group in known else "Dead")
        response.string("")
        response.string("")
        response.int32(0)  # members
        if version >= 3:
            response.int32(_NO_OPERATIONS)

    response.array(groups, write)
    return response


async def delete_groups(broker: Broker, request: Reader, version: int) -> Writer:
    response = Writer()
    response.int32(0)

    def write(group: str) -> None:
        code = ErrorCode.NONE
        try:
            broker.offsets.forget_group(group)
        except RefusedError as error:
            code = error.code
        response.string(group)
        response.int16(code)

    response.array(request.array(request.string), write)
    return response


APIS = {
    ApiKey.OFFSET_COMMIT: Api(2, 7, offset_commit),
    ApiKey.OFFSET_FETCH: Api(1, 5, offset_fetch),
    ApiKey.FIND_COORDINATOR: Api(0, 2, find_coordinator),
    ApiKey.DESCRIBE_GROUPS: Api(0, 4, describe_groups),
    ApiKey.LIST_GROUPS: Api(0, 2, list_groups),
    ApiKey.DELETE_GROUPS: Api(0, 1, delete_groups),
}
