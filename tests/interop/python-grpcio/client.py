"""Talks to the suite as a Python client would. Usage: client.py GATEWAY ROUTER API_SERVER (each host:port)."""
import sys

import grpc
from aiplatform.inference.v1 import inference_service_pb2 as inference
from aiplatform.inference.v1 import inference_service_pb2_grpc as inference_grpc
from aiplatform.inference.v1 import message_pb2 as message
from aiplatform.resilience.v1 import circuit_breaker_service_pb2 as breakers
from aiplatform.resilience.v1 import circuit_breaker_service_pb2_grpc as breakers_grpc
from google.protobuf import descriptor_pool, message_factory
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status

TIMEOUT = 20  # seconds: a bound on each call, never waited out
GATEWAY, ROUTER, API_SERVER = sys.argv[1:4]


def chat_request(text):
    """A chat of one message."""
    part = message.ContentPart(text=text)
    return inference.ChatRequest(messages=[message.Message(role=message.ROLE_USER, content=[part])])


def check_stubs(channel):
    """Chat, StreamChat and ListModels through generated stubs."""
    stub = inference_grpc.InferenceServiceStub(channel)
    answer = stub.Chat(chat_request("hello from python"), timeout=TIMEOUT)
    print("Chat:", answer.served_by.tier, "|", answer.message.content[0].text)
    assert answer.served_by.tier == "max" and answer.id and answer.attempts, answer

    events = list(stub.StreamChat(inference.StreamChatRequest(chat=chat_request("stream to python")), timeout=TIMEOUT))
    kinds = [event.WhichOneof("event") for event in events]
    text = "".join(event.delta.text for event in events if event.WhichOneof("event") == "delta")
    print("StreamChat:", len(kinds), "events |", text)
    assert kinds[0] == "start" and kinds[-1] == "end" and set(kinds[1:-1]) == {"delta"} and text, kinds
    assert events[0].start.served_by.tier == "max", events[0]

    stream = stub.StreamChat(inference.StreamChatRequest(chat=chat_request("to be abandoned")), timeout=TIMEOUT)
    assert next(stream).WhichOneof("event") == "start"
    stream.cancel()
    assert stream.code() == grpc.StatusCode.CANCELLED, stream.code()

    models = stub.ListModels(inference.ListModelsRequest(), timeout=TIMEOUT)
    print("ListModels:", len(models.models))
    assert models.models, models


def check_errors(channel):
    """A bad request carries the reason and the field, in google.rpc's messages."""
    try:
        inference_grpc.InferenceServiceStub(channel).Chat(inference.ChatRequest(), timeout=TIMEOUT)
    except grpc.RpcError as error:
        status = rpc_status.from_call(error)
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT and status is not None, error
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        assert any(detail.Unpack(info) for detail in status.details), status
        assert any(detail.Unpack(bad) for detail in status.details), status
        print("INVALID_ARGUMENT:", info.reason, "|", bad.field_violations[0].field)
        assert info.reason == "INVALID_REQUEST" and bad.field_violations[0].field, status
    else:
        raise AssertionError("a chat without messages was accepted")


def check_reflection(address, service):
    """Calls Chat, or lists the methods, with nothing but what reflection tells."""
    with grpc.insecure_channel(address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        names = database.get_services()
        print("reflection:", address, *names)
        pool = descriptor_pool.DescriptorPool(database)
        methods = pool.FindServiceByName(service).methods_by_name
        assert methods, service
        if "Chat" not in methods:
            return
        chat = methods["Chat"]
        request = message_factory.GetMessageClass(chat.input_type)()
        one = request.messages.add(role=message.ROLE_USER)
        one.content.add(text="hello by reflection")
        call = channel.unary_unary(f"/{service}/Chat",
                                   request_serializer=lambda value: value.SerializeToString(),
                                   response_deserializer=message_factory.GetMessageClass(chat.output_type).FromString)
        answer = call(request, timeout=TIMEOUT)
        assert answer.served_by.tier == "max", answer


def check_health(address):
    """Check answers for a name; Watch tells the state at once; an unknown name is NOT_FOUND."""
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", "liveness", "readiness"):
            answer = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=TIMEOUT)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING, (address, name, answer)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service="readiness"), timeout=TIMEOUT)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()
        try:
            stub.Check(health_pb2.HealthCheckRequest(service="no.such.Service"), timeout=TIMEOUT)
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.NOT_FOUND, error
        else:
            raise AssertionError("an unknown health name was answered")


def check_breakers(address):
    """The breakers of the router, seen at either service."""
    with grpc.insecure_channel(address) as channel:
        stub = breakers_grpc.CircuitBreakerServiceStub(channel)
        found = stub.ListCircuitBreakers(breakers.ListCircuitBreakersRequest(), timeout=TIMEOUT)
        print("breakers:", address, *[breaker.name for breaker in found.circuit_breakers])
        assert found.circuit_breakers, found


with grpc.insecure_channel(GATEWAY) as gateway:
    check_stubs(gateway)
    check_errors(gateway)
check_reflection(GATEWAY, "aiplatform.inference.v1.InferenceService")
check_reflection(ROUTER, "aiplatform.inference.v1.InferenceService")
check_reflection(API_SERVER, "aiplatform.resilience.v1.CircuitBreakerService")
for target in (GATEWAY, ROUTER, API_SERVER):
    check_health(target)
for target in (ROUTER, API_SERVER):
    check_breakers(target)
print("all as it should be")
