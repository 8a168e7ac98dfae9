"""The requests about a topic's configs: DescribeConfigs, AlterConfigs, IncrementalAlterConfigs.

(broker, request, version) -> response

The broker's own configs are described, as the defaults of its topics, but set by its command line only.
"""

from collections.abc import Callable
from typing import NamedTuple

from dataflows.embedded.kafka_broker import Broker
from dataflows.embedded.kafka_topics import CONFIGS, config_text
from dataflows.embedded.kafka_wire import Api, ApiKey, ErrorCode, Reader, RefusedError, Writer

_TOPIC, _BROKER = 2, 4  # resource types
_TOPIC_CONFIG, _DEFAULT_CONFIG = 1, 5  # config sources
_SET, _DELETE = 0, 1  # operations


class _Entry(NamedTuple):
    name: str
    value: str
    is_default: bool


class _Asked(NamedTuple):
    """A resource, and the names of the configs wanted; None is all."""

    type: int
    name: str
    names: list[str] | None


async def describe_configs(broker: Broker, request: Reader, version: int) -> Writer:
    def asked() -> _Asked:
        return _Asked(request.int8(), request.string(), request.nullable_array(request.string))

    resources = request.array(asked)
    response = Writer()
    response.int32(0)

    def write_entry(entry: _Entry) -> None:
        response.string(entry.name)
        response.string(entry.value)
        response.boolean(False)  # read only
        if version == 0:
            response.boolean(entry.is_default)
        else:
            response.int8(_DEFAULT_CONFIG if entry.is_default else _TOPIC_CONFIG)
        response.boolean(False)  # sensitive
        if version >= 1:
            response.int32(0)  # synonyms
        if version >= 3:
            response.int8(0)  # type: unknown
            response.string(None)  # documentation

    def write(resource: _Asked) -> None:
        code, message, entries = ErrorCode.NONE, None, []
        try:
            entries = [
                e for e in _entries(broker, resource) if resource.names is None or e.name in resource.names
            ]
        except RefusedError as error:
            code, message = error.code, error.message
        response.int16(code)
        response.string(message)
        response.int8(resource.type)
        response.string(resource.name)
        response.array(entries, write_entry)

    response.array(resources, write)
    return response


def _entries(broker: Broker, resource: _Asked) -> list[_Entry]:
    if resource.type == _BROKER:
        return [_Entry(name, config_text(name, broker.topics.defaults), True) for name in CONFIGS]
    if resource.type != _TOPIC:
        raise RefusedError(ErrorCode.INVALID_REQUEST, "only topics and the broker have configs")
    own = broker.topics.topic(resource.name).configs
    config = broker.topics.config(resource.name)
    entries = [_Entry(name, config_text(name, config), name not in own) for name in CONFIGS]
    return entries + [_Entry(name, value, False) for name, value in own.items() if name not in CONFIGS]


class _Alteration(NamedTuple):
    """A resource, and what its own configs are to become, given what they are."""

    type: int
    name: str
    altered: Callable[[dict[str, str]], dict[str, str]]


async def alter_configs(broker: Broker, request: Reader, version: int) -> Writer:
    def alteration() -> _Alteration:
        kind, name = request.int8(), request.string()
        configs = dict(request.array(lambda: (request.string(), request.string())))
        return _Alteration(kind, name, lambda _: configs)

    return _altered(broker, request.array(alteration), validate_only=request.boolean())


async def incremental_alter_configs(broker: Broker, request: Reader, version: int) -> Writer:
    def alteration() -> _Alteration:
        kind, name = request.int8(), request.string()
        changes = request.array(lambda: (request.string(), request.int8(), request.string()))

        def altered(configs: dict[str, str]) -> dict[str, str]:
            for config, operation, value in changes:
                if operation == _SET:
                    configs[config] = value
                elif operation == _DELETE:
                    configs.pop(config, None)
                else:
                    raise RefusedError(ErrorCode.INVALID_REQUEST, "no config here is a list")
            return configs

        return _Alteration(kind, name, altered)

    return _altered(broker, request.array(alteration), validate_only=request.boolean())


def _altered(broker: Broker, alterations: list[_Alteration], *, validate_only: bool) -> Writer:
    response = Writer()
    response.int32(0)

    def write(alteration: _Alteration) -> None:
        code, message = ErrorCode.NONE, None
        try:
            if alteration.type != _TOPIC:
                raise RefusedError(ErrorCode.INVALID_REQUEST, "only a topic's configs can be altered")
            configs = alteration.altered(dict(broker.topics.topic(alteration.name).configs))
            broker.topics.configure(alteration.name, configs, validate_only=validate_only)
        except RefusedError as error:
            code, message = error.code, error.message
        response.int16(code)
        response.string(message)
        response.int8(alteration.type)
        response.string(alteration.name)

    response.array(alterations, write)
    return response


APIS = {
    ApiKey.DESCRIBE_CONFIGS: Api(0, 3, describe_configs),
    ApiKey.ALTER_CONFIGS: Api(0, 1, alter_configs),
    ApiKey.INCREMENTAL_ALTER_CONFIGS: Api(0, 0, incremental_alter_configs),
}
